-- Accepts one chat; the function's comment in schema.sql has the rules and what it raises.
select * from enqueue_chat(:conversation_id, :client_id, :operator_id, :payload, :sender, :chat_id, :urgent)
