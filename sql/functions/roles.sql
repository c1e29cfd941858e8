-- The roles: which functions each process may call to write, and what it may read.

-- The roles write only through these functions, which run with the owner's rights.
create or replace function functions_of_roles() returns table (role name, functions regproc[])
language sql stable as $$
    values ('shoptalk_web'::name, '{enqueue_chat,enqueue_chats,cancel_chat,edit_chat,add_store,change_hours,close_on,
                set_quiet_hours,mark_read,keep_presence,put_webhook,pause_channel,resume_channel,replay_channel,
                requeue_on_channel,skip_on_channel}'::regproc[]),
           ('shoptalk_worker', '{send_chats,keep_hours,sample_queue,prune}'),
           ('shoptalk_relay', '{lease_channel,renew_lease,return_lease,settle_batch,put_off_channel,
                advance_idle_channels,prune_channels,open_system_channel,enqueue_from_amqp,enqueue_from_xmpp,
                mark_delivered,record_bounce}')
$$;

do $$
declare
    writing regprocedure;
begin
    for writing in
        -- The trigger too: it runs at the commit of a change of hours, after the function that made the change has
        -- ended.
        select unnest(f.functions)::oid::regprocedure from functions_of_roles() f union all select 'hours_changed()'
    loop
        -- With a fixed search_path, so that no other table of the same name, not even a temporary one, takes
        -- precedence.
        execute format('alter function %s security definer set search_path = %I, pg_temp', writing, current_schema());
        execute format('revoke execute on function %s from public', writing);
    end loop;
end $$;

-- Grants the existing roles their rights.
create or replace function grant_roles() returns void
language plpgsql as $$
declare
    known name[] := array(select r.rolname from pg_roles r);
    role name;
    writing regprocedure;
begin
    for role in select r from unnest('{shoptalk_web,shoptalk_worker,shoptalk_relay,shoptalk_inspector}'::name[]) r
                 where r = any (known)
    loop
        execute format('grant usage on schema %I to %I', current_schema(), role);
        execute format('grant select on schema_version to %I', role);
    end loop;
    for role, writing in
        select f.role, unnest(f.functions)::oid::regprocedure from functions_of_roles() f where f.role = any (known)
    loop
        execute format('grant execute on function %s to %I', writing, role);
    end loop;
    if 'shoptalk_web' = any (known) then
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients,
            quiet_hours, operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats,
            read_marks, delivered_marks, queue_samples, web_processes, presence, api_keys, token_secrets,
            channel_dead_letters, channel_attempts, pruned, chat_states, queue_status, channel_status to shoptalk_web;
        grant insert on clients, operators to shoptalk_web;
        grant select (channel_id), delete on channels to shoptalk_web;
    end if;
    if 'shoptalk_relay' = any (known) then
        grant select on conversations, chats, sent_log, channels, channel_dead_letters, pruned to shoptalk_relay;
        grant select (client_id, xmpp_jid) on clients to shoptalk_relay;
        grant select (operator_id, xmpp_jid) on operators to shoptalk_relay;
    end if;
    if 'shoptalk_inspector' = any (known) then
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients,
            quiet_hours, operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats,
            read_marks, delivered_marks, queue_samples, web_processes, presence, channel_dead_letters,
            channel_attempts, inbound_messages, pruned, chat_states, queue_status, paused, channel_status,
            channel_totals, keys to shoptalk_inspector;
    end if;
end $$;

do $$
declare
    role name;
begin
    foreach role in array '{shoptalk_web,shoptalk_worker,shoptalk_relay,shoptalk_inspector}'::name[] loop
        begin
            execute format('create role %I nologin', role);
        exception
            when duplicate_object or unique_violation then null;  -- another database of the cluster has created it
            when insufficient_privilege then raise notice 'role % was not created: insufficient privilege', role;
        end;
    end loop;
    perform grant_roles();
end $$;
