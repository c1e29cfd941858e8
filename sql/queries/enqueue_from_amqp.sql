-- Accepts chats that came in from RabbitMQ, each by itself; one row each, in the order given. A message that comes
-- again finds its chat by its chat_id or, where it has none, by its message_id.
select (r.chat).*, r.error_state, r.error_field, r.error_reason
  from enqueue_from_amqp(:message_ids, :conversation_ids, :client_ids, :operator_ids, :payloads, :senders, :chat_ids, :urgents) r
 order by r.place
