-- What is paused, and how many chats wait there.
select kind, id, paused_at, waiting from paused order by paused_at, kind, id
