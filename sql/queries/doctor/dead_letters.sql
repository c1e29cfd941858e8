-- How many chats are dead letters, since when, and the newest of them with its reason.
select count(*) as chats, min(f.dead_at) as since, (array_agg(f.chat_id order by f.dead_at desc))[1] as chat_id,
       (array_agg(f.reason order by f.dead_at desc))[1] as reason
  from chat_failures f
 where f.dead_at is not null
