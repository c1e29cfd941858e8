-- The next chats of the sent log after a position: what a web process hands to its streams.
-- Complete as it is: position order is commit order, so nothing below what it returns can appear later.
select l.position, l.sent_at, c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id,
       c.operator_id, c.created_at, 'sent' as state, null::timestamptz as release_at, v.store_id,
       case when c.release_at is null then (select shoptalk_now()) - c.created_at end as age  -- of what was never held
  from sent_log l
  join chats c on c.chat_id = l.chat_id
  join conversations v on v.conversation_id = l.conversation_id
 where l.position > :after
 order by l.position
 limit :page
