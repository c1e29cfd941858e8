-- The next chats of the log after a position, of one conversation and up to a position. Materialized, so that the
-- planner takes either the conversation's entries or the range of positions, whichever is shorter, and not the walk
-- over the chats of all conversations in order, to which `limit` would tempt it.
with entries as materialized (
    select position, chat_id, conversation_id, sent_at
      from sent_log
     where conversation_id = :conversation_id and position > :after and position <= :until
)
select l.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, 'sent' as state, null::timestamptz as release_at, cv.store_id
  from (select * from entries order by position limit :page) l
  join chats ch on ch.chat_id = l.chat_id
  join conversations cv on cv.conversation_id = l.conversation_id
 order by l.position
