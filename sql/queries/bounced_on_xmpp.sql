-- A chat came back after it had counted as delivered; the function's comment in schema.sql has the rules.
select bounced_on_xmpp(:conversation_id, :chat_id, :xmpp_jid, :reason, :requeue_seconds)
