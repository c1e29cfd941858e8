-- The next chats of the log for a channel, of its store or (null) of all, in a window of positions: a channel
-- that was away for long goes through the log window by window, each a short read. Materialized, so that the planner does
-- not take all the entries of a store's conversations instead of the window.
with entries as materialized (
    select position, chat_id, conversation_id, sent_at from sent_log where position > :after and position <= :until
)
select l.position, l.sent_at, c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id,
       c.operator_id, c.created_at, 'sent' as state, null::timestamptz as release_at, v.store_id
  from entries l
  join conversations v on v.conversation_id = l.conversation_id
  join chats c on c.chat_id = l.chat_id
 where cast(:store_id as integer) is null or v.store_id = :store_id
 order by l.position
 limit :page
