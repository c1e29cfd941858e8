-- Accepts what somebody has written to a conversation's XMPP address. Raises ST403; the function's comment in
-- schema.sql has the rest.
select replayed from enqueue_from_xmpp(:conversation_id, :xmpp_jid, :message_id, :payload)
