-- Chats with their states as they are now, those that are sent left out: these come by the log.
select c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id, c.operator_id, c.created_at,
       s.state, s.release_at
  from chats c
  join lateral (select state, release_at from chat_states
                 where conversation_id = c.conversation_id and seq = c.seq limit 1) s on true
 where c.chat_id = any(:chat_ids) and s.state <> 'sent'
 order by c.conversation_id, c.seq
