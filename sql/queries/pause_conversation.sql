-- Stops sending a conversation's chats; answers how many wait. Raises ST404.
select pause_conversation(:number) as chats
