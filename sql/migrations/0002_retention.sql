-- Retention: prune(), what it keeps in mind, and the worker's right to call it. Programs of version 1 go on beside it.

set local lock_timeout = '2s';
set local statement_timeout = '1min';

-- One prunes at a time.
create function prune_lock() returns bigint language sql immutable as $$ select 7310579105 $$;

-- Where the log begins by now, one row. Whoever wants its first entry looks from there, past the dead rows in front;
-- and how the last prune() went.
create table pruned (
    upto bigint not null,                     -- all entries of the log up to this position are gone
    at timestamptz,                           -- when prune() last ran; null: never
    keep interval,                            -- and what it was to keep
    held_by integer                           -- the channel that needs older entries than that; null: none
);
create unique index pruned_single_row on pruned ((true));
insert into pruned (upto) values (0);

create type prune_report as (
    sent bigint,              -- chats removed that were sent, with their entries of the log
    cancelled bigint,         -- chats removed that were cancelled
    more boolean,             -- there are more: call again
    held_by integer           -- the channel that needs what is older still; null: none
);

-- Up to which position the log may be pruned of what is older than `keep`, at most so many entries (null: any
-- number), and the channel that stops it there.
--
-- From the front only, so that positions have no gaps behind it, and never the last entry, because the next position
-- is counted from it. What a channel has not delivered, or is to deliver once more, stays with all behind it.
create function prunable(keep interval, most bigint, out upto bigint, out held_by integer)
language plpgsql stable set enable_seqscan = off as $$
declare
    floor bigint := (select p.upto from pruned p);
    last bigint := coalesce((select max(position) from sent_log), 0);
    until bigint := least(floor + most, last - 1);
    old_upto bigint;
    needed record;
begin
    select coalesce(
               (select l.position - 1 from sent_log l
                 where l.position > floor and l.position <= until and l.sent_at >= shoptalk_now() - keep
                 order by l.position limit 1),
               until)
      into old_upto;
    select n.channel_id, n.position into needed
      from (select c.channel_id, c.cursor + 1 as position from channels c
            union all
            select f.channel_id, f.position from channel_failures f where f.requeue_at is not null) n
     order by n.position limit 1;
    upto := greatest(floor, least(old_upto, needed.position - 1));
    if upto < old_upto then
        held_by := needed.channel_id;
    end if;
end $$;

-- Removes what was sent or cancelled longer ago than `keep`: at most so many chats of each in one short transaction,
-- so call it until there is no more. Null: somebody else is at it.
--
-- What waits or has failed stays, however old. So do conversations, since their last_seq is what the next seq is
-- counted from. send_chats() needs nothing of what goes: it asks the log for a chat's predecessor and, where the log
-- does not have it, whether an earlier one of the conversation still waits; of what is gone none does.
-- Waits for nobody: the first chat that somebody has locked (erase_client()) is where it stops.
create function prune(keep interval, most integer default 500) returns prune_report
language plpgsql volatile set enable_seqscan = off as $$
declare
    began_at timestamptz := shoptalk_now();
    floor bigint;
    allowed record;
    last bigint;
    ids bigint[];
    report prune_report;
begin
    if keep < interval '1 day' or most < 1 then
        raise 'at least a day is kept, and at least one chat is removed at a time' using errcode = '22023';
    end if;
    if not pg_try_advisory_xact_lock(prune_lock()) then
        return null;
    end if;
    floor := (select p.upto from pruned p);
    select * into allowed from prunable(keep, most);

    with old as materialized (
        select l.position, l.chat_id from sent_log l where l.position > floor and l.position <= allowed.upto
    ), free as materialized (
        select c.chat_id from chats c where c.chat_id in (select o.chat_id from old o) for update of c skip locked
    )
    select coalesce(min(o.position) - 1, allowed.upto) into last
      from old o
     where not exists (select from free f where f.chat_id = o.chat_id)
       and exists (select from chats c where c.chat_id = o.chat_id);
    with gone as (
        delete from sent_log l where l.position > floor and l.position <= last returning l.chat_id
    )
    select coalesce(array_agg(chat_id), '{}') into ids from gone;
    delete from channel_failures f using channels c where f.channel_id = c.channel_id and f.position <= last;
    delete from chat_failures f where f.chat_id = any (ids);
    delete from chats c where c.chat_id = any (ids);
    report.sent := cardinality(ids);

    select coalesce(array_agg(chat_id), '{}') into ids
      from (select c.chat_id from cancelled_chats x join chats c on c.chat_id = x.chat_id
             where x.cancelled_at < began_at - prune.keep limit most for update of c skip locked) old;
    delete from cancelled_chats x where x.chat_id = any (ids);
    delete from chat_failures f where f.chat_id = any (ids);
    delete from chats c where c.chat_id = any (ids);
    report.cancelled := cardinality(ids);

    report.more := report.sent = most or report.cancelled = most;
    report.held_by := allowed.held_by;
    if not report.more then
        delete from channel_attempts a where a.attempted_at < began_at - prune.keep;
    end if;
    update pruned p set upto = last, at = began_at, keep = prune.keep, held_by = report.held_by;
    return report;
end $$;

-- Where the log begins is looked up, and not searched for among dead rows.
create or replace view queue_status as
    with waiting as (
        select count(*) filter (where is_held) as held,
               min(held_since) filter (where is_held) as oldest_held,
               min(due_at) filter (where is_held and due_at < 'infinity') as next_release,
               count(*) filter (where not is_held) as queued,
               min(due_at) filter (where not is_held) as oldest_queued
          from chat_queue, lateral (select shoptalk_now() as at) clock,
               lateral (select held_since is not null and due_at > at as is_held) h
    )
    select 'held' as state, held as chats, oldest_held as oldest, next_release from waiting
    union all
    select 'queued', queued, oldest_queued, null from waiting
    union all
    select 'sent', coalesce((select max(position) from sent_log), 0),
           (select sent_at from sent_log where position > (select upto from pruned) order by position limit 1), null
    union all
    select 'failed', count(*), min(dead_at), null from chat_failures where dead_at is not null
    union all
    select 'cancelled', count(*), min(cancelled_at), null from cancelled_chats;

-- And who may use it.
create or replace function functions_of_roles() returns table (role name, functions regproc[])
language sql stable as $$
    values ('shoptalk_web'::name, '{enqueue_chat,enqueue_chats,cancel_chat,edit_chat,add_store,change_hours,close_on,
                set_quiet_hours,mark_read,keep_presence,put_webhook,pause_channel,resume_channel,replay_channel,
                requeue_on_channel,skip_on_channel}'::regproc[]),
           ('shoptalk_worker', '{send_chats,keep_hours,sample_queue,prune}'),
           ('shoptalk_relay', '{lease_channel,renew_lease,release_lease,settle_batch,put_off_channel,
                advance_idle_channels,prune_channels,open_system_channel,enqueue_from_amqp,enqueue_from_xmpp,
                mark_delivered,bounced_on_xmpp}')
$$;

create or replace function grant_roles() returns void
language plpgsql as $$
declare
    known name[] := array(select rolname from pg_roles);
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
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients, quiet_hours,
            operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats, read_marks, delivered_marks,
            queue_samples, web_processes, presence, api_keys, token_secrets, channel_failures, channel_attempts, pruned,
            chat_states, queue_status, channel_status to shoptalk_web;
        grant insert on clients, operators to shoptalk_web;
        grant select (channel_id), delete on channels to shoptalk_web;
    end if;
    if 'shoptalk_relay' = any (known) then
        grant select on conversations, chats, sent_log, channels, channel_failures, pruned to shoptalk_relay;
        grant select (client_id, xmpp_jid) on clients to shoptalk_relay;
        grant select (operator_id, xmpp_jid) on operators to shoptalk_relay;
    end if;
    if 'shoptalk_inspector' = any (known) then
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients, quiet_hours,
            operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats, read_marks, delivered_marks,
            queue_samples, web_processes, presence, channel_failures, channel_attempts, inbound_messages, pruned,
            chat_states, queue_status, paused, channel_status, channel_totals, keys to shoptalk_inspector;
    end if;
end $$;

do $$
begin
    execute format('alter function prune security definer set search_path = %I, pg_temp', current_schema());
    revoke execute on function prune from public;
    perform grant_roles();
end $$;

update schema_version set version = 2;
