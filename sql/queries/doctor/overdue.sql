-- How many chats have been overdue for more than the given seconds, counted up to 10,000; when a chat was last sent,
-- and which session holds the sender's lock now.
select o.chats, o.since,
       (select l.sent_at from sent_log l order by l.position desc limit 1) as last_sent_at,
       (select k.pid from pg_locks k
         where k.locktype = 'advisory' and k.granted and k.objsubid = 1
           and k.database = (select oid from pg_database where datname = current_database())
           and (k.classid::bigint << 32 | k.objid::bigint) = sender_lock() limit 1) as sender
  from (select count(*) as chats, min(due.due_at) as since
          from (select q.due_at from chat_queue q
                 where not q.paused and q.due_at < (select shoptalk_now()) - :seconds * interval '1 second'
                 order by q.due_at limit 10000) due) o
