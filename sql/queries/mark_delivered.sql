-- The party's device has the chat; the function's comment in schema.sql has the rules.
select mark_delivered(:conversation_id, :chat_id, :xmpp_jid)
