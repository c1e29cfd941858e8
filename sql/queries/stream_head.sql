-- What a conversation's stream begins with: its parties, what each has read, who is present and by which streams.
select v.client_id, v.operator_id, v.store_id, present_in(v) as present,
       coalesce((select seq from read_marks m where m.conversation_id = v.conversation_id and reader = 'client'), 0)
           as client_read,
       coalesce((select seq from read_marks m where m.conversation_id = v.conversation_id and reader = 'operator'), 0)
           as operator_read
  from conversations v
 where v.conversation_id = :conversation_id
