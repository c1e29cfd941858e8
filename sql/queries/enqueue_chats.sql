-- Accepts up to a thousand chats, each by itself; one row each, in the order given.
select (r.chat).*, r.error_state, r.error_field, r.error_reason
  from enqueue_chats(:conversation_ids, :client_ids, :operator_ids, :payloads, :senders, :chat_ids, :urgents) r
 order by r.place
