-- Stops sending a store's chats; answers how many wait. Raises ST404.
select pause_store(:number) as chats
