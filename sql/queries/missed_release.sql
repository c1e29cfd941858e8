-- Chats that may go and have not gone for longer than that, counted to ten thousand; when one was last sent, and who has
-- the sender's lock now.
select d.chats, d.since,
       (select sent_at from sent_log order by position desc limit 1) as last_sent_at,
       (select l.pid from pg_locks l
         where l.locktype = 'advisory' and l.granted and l.objsubid = 1
           and l.database = (select oid from pg_database where datname = current_database())
           and (l.classid::bigint << 32 | l.objid::bigint) = sender_lock() limit 1) as sender
  from (select count(*) as chats, min(due_at) as since
          from (select due_at from chat_queue
                 where not paused and due_at < (select shoptalk_now()) - :seconds * interval '1 second'
                 order by due_at limit 10000) due) d
