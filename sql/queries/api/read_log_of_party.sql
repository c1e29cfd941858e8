-- The chats of the log in a window of positions that are of a client, an operator or a store (the others are null). A
-- reader that was away for a long time reads the log window by window, each a short read. Materialized, so that the
-- planner reads the window and not all entries of the conversations.
with entries as materialized (
    select position, chat_id, conversation_id, sent_at from sent_log where position > :after and position <= :until
)
select l.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, 'sent' as state, null::timestamptz as release_at, cv.store_id
  from entries l
  join conversations cv on cv.conversation_id = l.conversation_id
  join chats ch on ch.chat_id = l.chat_id
 where (cv.client_id = :client_id or cv.operator_id = :operator_id or cv.store_id = :store_id)
 order by l.position
