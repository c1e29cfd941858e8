-- How many chats were given up, and why the last one was.
select count(*) as chats, min(dead_at) as since, (array_agg(chat_id order by dead_at desc))[1] as chat_id,
       (array_agg(reason order by dead_at desc))[1] as reason
  from chat_failures
 where dead_at is not null
