-- Which stores have something new in the log after a position, and how far this looked: for the relays, who
-- so need not look for every channel. No row while there is nothing new.
select max(position) as upto, array_agg(distinct store_id) as store_ids
  from (select l.position, v.store_id
          from sent_log l join conversations v on v.conversation_id = l.conversation_id
         where l.position > :after
         order by l.position
         limit :page) new
having max(position) is not null
