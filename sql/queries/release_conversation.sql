-- Sends what a conversation holds now; answers how many chats. Raises ST404, and ST409 where it is paused.
select release_conversation(:number) as chats
