-- Sends a paused conversation's chats again; answers how many waited. Raises ST404.
select resume_conversation(:number) as chats
