-- Replaces every text of a client's. Raises ST404.
select conversations, chats, cancelled from erase_client(:client_id)
