-- The next chats of the sent log after a position: what a web process passes to its streams. Complete, because position
-- order is commit order: no chat with a lower position than these can appear later.
select l.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, 'sent' as state, null::timestamptz as release_at, cv.store_id,
       case when ch.held_until is null then (select shoptalk_now()) - ch.created_at end as age  -- null: it was held
  from sent_log l
  join chats ch on ch.chat_id = l.chat_id
  join conversations cv on cv.conversation_id = l.conversation_id
 where l.position > :after
 order by l.position
 limit :page
