-- Sends what a store holds now; answers how many chats. Raises ST404, and ST409 where it is paused.
select release_store(:number) as chats
