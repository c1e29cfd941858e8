-- Paused stores and conversations, and how many chats wait in each.
select kind, id, paused_at, waiting from paused order by paused_at, kind, id
