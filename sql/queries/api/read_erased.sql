-- The newest chats of each of a client's conversations as they are now, sent ones too: at most so many of a conversation.
-- Only of conversations that one of these streams is for.
select ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id, ch.operator_id, ch.created_at,
       cs.state, cs.release_at, cv.store_id
  from conversations cv
 cross join lateral (select * from chats where conversation_id = cv.conversation_id order by seq desc limit :most) ch
  join lateral (select state, release_at from chat_states
                 where conversation_id = ch.conversation_id and seq = ch.seq limit 1) cs on true
 where cv.client_id = :client_id
   and (cv.conversation_id = any (:conversation_ids) or cv.client_id = any (:client_ids)
        or cv.operator_id = any (:operator_ids) or cv.store_id = any (:store_ids))
 order by cv.last_chat_at desc, ch.conversation_id, ch.seq desc
