-- Marks a conversation as read up to a chat; the function's comment in schema.sql has the rules.
select marked, moved from mark_read(:conversation_id, :reader, :seq)
