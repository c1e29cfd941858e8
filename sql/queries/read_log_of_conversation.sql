-- The same for one conversation, up to a position. Materialized, so that the planner takes either the
-- conversation's entries or the range of positions, whichever is shorter, and not the ordered walk over
-- everybody's chats that `limit` would lure it into.
with entries as materialized (
    select position, chat_id, conversation_id, sent_at
      from sent_log
     where conversation_id = :conversation_id and position > :after and position <= :until
)
select l.position, l.sent_at, c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id,
       c.operator_id, c.created_at, 'sent' as state, null::timestamptz as release_at, v.store_id
  from (select * from entries order by position limit :page) l
  join chats c on c.chat_id = l.chat_id
  join conversations v on v.conversation_id = l.conversation_id
 order by l.position
