-- A conversation's parties by name, its store's time zone, up to where each party has read and its device has received,
-- and who is present.
select present_in(cv) as present, cl.username, o.operator_name, s.timezone,
       coalesce((select m.seq from read_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'client'), 0) as client_read,
       coalesce((select m.seq from read_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'operator'), 0) as operator_read,
       coalesce((select m.seq from delivered_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'client'), 0) as client_delivered,
       coalesce((select m.seq from delivered_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'operator'), 0) as operator_delivered
  from conversations cv
  join clients cl using (client_id)
  join operators o using (operator_id)
  join stores s on s.store_id = cv.store_id
 where cv.conversation_id = :conversation_id
