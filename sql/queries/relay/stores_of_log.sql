-- The stores with new entries in the log after a position, and how far this looked: one look for all channels of a
-- relay. No row: there is no new entry.
select max(position) as upto, array_agg(distinct store_id) as store_ids
  from (select l.position, cv.store_id
          from sent_log l join conversations cv on cv.conversation_id = l.conversation_id
         where l.position > :after
         order by l.position
         limit :page) new
having max(position) is not null
