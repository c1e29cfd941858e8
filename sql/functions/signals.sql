-- What open pages are told besides the log: NOTIFY chat_event, which every web process hears and hands to its streams.
--
-- The functions that change a waiting chat call these, so that pages hear of every change, whether it comes from REST,
-- the command line or psql. Typing, read marks, and chats that are held when they are accepted are told by
-- queries/shared/announce.sql, in batches and far from the hot path: a committing NOTIFY takes a lock of the whole cluster.

-- Tells the streams of a conversation, its parties and its store of an event. A notification has at most 8,000 bytes.
create or replace function notify_event(event text, conversation conversations, data jsonb) returns void
language sql volatile as $$
    select pg_notify('chat_event', json_build_object(
        'event', event, 'data', data,
        'to', json_build_object('conversation_id', conversation.conversation_id, 'client_id', conversation.client_id,
                                'operator_id', conversation.operator_id, 'store_id', conversation.store_id))::text)
$$;

-- Tells open pages that these chats are now held, edited, cancelled, failed or queued again. Only which ones, a hundred in
-- a notification: a web process that has a stream for them reads how they are then.
create or replace function tell_chats_changed(chat_ids bigint[]) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
    perform notify_event('change', cv, jsonb_build_object('conversation_id', cv.conversation_id, 'chat_ids', g.chat_ids))
       from (select n.conversation_id, jsonb_agg(n.chat_id order by n.number) as chat_ids
               from (select ch.conversation_id, ch.chat_id,
                            row_number() over (partition by ch.conversation_id order by ch.seq) as number
                       from chats ch where ch.chat_id = any (tell_chats_changed.chat_ids)) n
              group by n.conversation_id, (n.number - 1) / 100) g
       join conversations cv using (conversation_id);
end $$;

-- Tells open pages that the waiting chats of a store, a conversation or a client (scope: store_id, conversation_id or
-- client_id) have changed: one notification, however many chats wait.
create or replace function tell_waiting_changed(scope text, id integer) returns void
language sql volatile as $$
    select pg_notify('chat_event', json_build_object(
        'event', 'change', 'data', json_build_object(scope, id), 'to', json_build_object(scope, id))::text)
$$;

-- Tells open pages that the texts of all chats of a client have changed, those of sent chats too.
create or replace function tell_erased(client_id integer) returns void
language sql volatile as $$
    select pg_notify('chat_event', json_build_object(
        'event', 'change', 'data', json_build_object('client_id', client_id, 'erased', true),
        'to', json_build_object('client_id', client_id))::text)
$$;
