-- Gives a dead letter its attempts again. Raises ST404 and ST409.
select requeue_chat(:chat_id)
