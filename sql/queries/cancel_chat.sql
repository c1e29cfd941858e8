-- Takes back a chat that is not sent. Raises ST404 and ST409.
select cancel_chat(:chat_id)
