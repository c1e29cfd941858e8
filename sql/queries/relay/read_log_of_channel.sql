-- The next chats of the log for a channel, of its store or (null) of all stores, in a window of positions. A channel
-- that was away for a long time reads the log window by window, each a short read. Materialized, so that the planner
-- reads the window and not all entries of the store's conversations.
with entries as materialized (
    select position, chat_id, conversation_id, sent_at from sent_log where position > :after and position <= :until
)
select l.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, 'sent' as state, null::timestamptz as release_at, cv.store_id
  from entries l
  join conversations cv on cv.conversation_id = l.conversation_id
  join chats ch on ch.chat_id = l.chat_id
 where cast(:store_id as integer) is null or cv.store_id = :store_id
 order by l.position
 limit :page
