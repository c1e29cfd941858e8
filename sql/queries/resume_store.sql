-- Sends a paused store's chats again; answers how many waited. Raises ST404.
select resume_store(:number) as chats
