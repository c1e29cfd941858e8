-- A client's data: export_client() hands all of it over, erase_client() replaces it for good.

create or replace function chats_of_client(client_id integer) returns setof chats
language sql stable as $$
    select ch.* from conversations cv join chats ch using (conversation_id)
     where cv.client_id = chats_of_client.client_id
$$;

-- One conversation of an export, with its marks and its chats.
create or replace function export_conversation(conversation conversations) returns jsonb
language plpgsql stable as $$
begin
    return to_jsonb(conversation) - 'client_id' || jsonb_build_object(
        'operator_name', (select o.operator_name from operators o where o.operator_id = conversation.operator_id),
        'read', (select jsonb_object_agg(m.party, m.seq) from read_marks m
                  where m.conversation_id = conversation.conversation_id),
        'delivered', (select jsonb_object_agg(m.party, m.seq) from delivered_marks m
                       where m.conversation_id = conversation.conversation_id),
        'chats', (select coalesce(jsonb_agg(to_jsonb(ch) - '{conversation_id,client_id,operator_id}'::text[]
                                            || jsonb_build_object('state', t.state, 'sent_at', t.sent_at)
                                            order by ch.seq), '[]')
                    from chats ch join chat_states t using (chat_id)
                   where ch.conversation_id = conversation.conversation_id));
end $$;

-- All data of a client, to hand over. Raises ST404 for an unknown client.
create or replace function export_client(client_id integer) returns jsonb
language plpgsql stable set timezone = 'UTC' as $$
declare
    answer jsonb;
begin
    select jsonb_build_object(
        'client', to_jsonb(cl),
        'quiet_hours', (select to_jsonb(qh) - 'client_id' from quiet_hours qh where qh.client_id = cl.client_id),
        'conversations', (
            select coalesce(jsonb_agg(export_conversation(cv) order by cv.conversation_id), '[]')
              from conversations cv where cv.client_id = cl.client_id),
        'sending_failed', (
            select coalesce(jsonb_agg(to_jsonb(f) order by f.chat_id), '[]')
              from chats_of_client(cl.client_id) ch join chat_failures f using (chat_id)),
        'delivery_failed', (
            select coalesce(jsonb_agg(to_jsonb(d) || jsonb_build_object('channel', cn.name) order by d.chat_id), '[]')
              from chats_of_client(cl.client_id) ch join channel_dead_letters d using (chat_id)
              join channels cn using (channel_id)),
        'deliveries', (
            select coalesce(jsonb_agg(to_jsonb(a) || jsonb_build_object('channel', cn.name)
                                      order by a.attempt_id), '[]')
              from chats_of_client(cl.client_id) ch join channel_attempts a using (chat_id)
              join channels cn using (channel_id)),
        'messages', (
            select coalesce(jsonb_agg(to_jsonb(i) order by i.chat_id), '[]')
              from chats_of_client(cl.client_id) ch join inbound_messages i using (chat_id)))
      into answer
      from clients cl where cl.client_id = export_client.client_id;
    if not found then
        perform refuse_unknown('client', client_id);
    end if;
    return answer;
end $$;

-- Cancels the chats of conversations that would still be sent, and their dead letters. Returns how many.
-- It waits for a sender that has claimed one of the queue rows, and then finds the row gone: that chat is sent.
create or replace function cancel_unsent(conversation_ids integer[]) returns bigint
language plpgsql volatile as $$
declare
    cancelled bigint;
begin
    with waiting as (
        delete from chat_queue q where q.conversation_id = any (conversation_ids) returning q.chat_id
    ), dead as (
        delete from chat_failures f using chats ch
         where ch.conversation_id = any (conversation_ids) and f.chat_id = ch.chat_id and f.dead_at is not null
        returning f.chat_id
    ), inserted as (
        insert into cancelled_chats
        select u.chat_id, shoptalk_now() from (select * from waiting union select * from dead) u
        on conflict do nothing
        returning 1
    )
    select count(*) into cancelled from inserted;
    return cancelled;
end $$;

-- Replaces other programs' texts about chats, which may quote them, and the message ids under which they came in.
create or replace function erase_reports(conversation_ids integer[], erased text) returns void
language plpgsql volatile as $$
declare
    ids bigint[] := array(select ch.chat_id from chats ch where ch.conversation_id = any (conversation_ids));
begin
    update chat_failures f set reason = erased where f.chat_id = any (ids);
    update channel_dead_letters d set reason = erased where d.chat_id = any (ids);
    update channel_attempts a set error = erased where a.chat_id = any (ids) and a.error is not null;
    -- Attempts whose chat is pruned cannot be assigned to a client any more: they go.
    delete from channel_attempts a where not exists (select from chats ch where ch.chat_id = a.chat_id);
    update inbound_messages i set message_id = erased || ' ' || i.chat_id where i.chat_id = any (ids);
    update channels cn set last_error = erased
     where cn.last_error is not null
       and (cn.store_id is null
            or cn.store_id in (select cv.store_id from conversations cv
                                where cv.conversation_id = any (conversation_ids)));
end $$;

-- Makes a client anonymous: unsent chats are cancelled, and every text that the client wrote or was sent, and
-- everything else by which a person could be recognized, is replaced for good. Ids, seqs, positions and instants stay,
-- so that order, cursors and counts stay right. A second call replaces what has been added since. Raises ST404 for an
-- unknown client.
create or replace function erase_client(
    client_id integer, out conversations bigint, out chats bigint, out cancelled bigint)
language plpgsql volatile as $$
declare
    erased constant text := '[erased]';
    ids integer[];            -- the client's conversations
begin
    -- Locks in the order of enqueue_chat(): meanwhile no session begins a conversation with the client or goes on with
    -- one.
    perform from clients cl where cl.client_id = erase_client.client_id for update;
    if not found then
        perform refuse_unknown('client', client_id);
    end if;
    ids := array(select cv.conversation_id from conversations cv
                  where cv.client_id = erase_client.client_id order by 1 for no key update);
    conversations := cardinality(ids);
    cancelled := cancel_unsent(ids);
    update clients cl set username = erased, location = erased, xmpp_jid = null
     where cl.client_id = erase_client.client_id;
    delete from quiet_hours qh where qh.client_id = erase_client.client_id;
    update chats ch set payload = erased, template = null
     where ch.conversation_id = any (ids) and (ch.payload <> erased or ch.template is not null);
    get diagnostics chats = row_count;
    perform erase_reports(ids, erased);
    perform tell_erased(client_id);
end $$;
