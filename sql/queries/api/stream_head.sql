-- The beginning of a conversation's stream: its parties, up to where each has read, who is present and by which
-- streams.
select cv.client_id, cv.operator_id, cv.store_id, present_in(cv) as present,
       coalesce((select m.seq from read_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'client'), 0) as client_read,
       coalesce((select m.seq from read_marks m
                  where m.conversation_id = cv.conversation_id and m.party = 'operator'), 0) as operator_read
  from conversations cv
 where cv.conversation_id = :conversation_id
