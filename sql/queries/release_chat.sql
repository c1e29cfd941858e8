-- Sends a held chat now, and those before it; answers how many. Raises ST404, and ST409 where it is not held or paused.
select release_chat(:number) as chats
