-- Replaces the text of a chat that still waits. Raises ST404 and ST409.
select edit_chat(:chat_id, :payload)
