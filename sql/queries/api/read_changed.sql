-- Chats with their states as they are now, and the store that they belong to. Sent chats are left out: they come by the log.
select ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id, ch.operator_id, ch.created_at,
       cs.state, cs.release_at, cv.store_id
  from chats ch
  join conversations cv using (conversation_id)
  join lateral (select state, release_at from chat_states
                 where conversation_id = ch.conversation_id and seq = ch.seq limit 1) cs on true
 where ch.chat_id = any (:chat_ids) and cs.state <> 'sent'
 order by ch.conversation_id, ch.seq
