-- A conversation's parties' names, its store's zone, what each party has read and its device has, and who is present.
select present_in(v) as present, k.username, o.operator_name, s.timezone,
       coalesce((select seq from read_marks m where m.conversation_id = v.conversation_id and reader = 'client'), 0)
           as client_read,
       coalesce((select seq from read_marks m where m.conversation_id = v.conversation_id and reader = 'operator'), 0)
           as operator_read,
       coalesce((select seq from delivered_marks m where m.conversation_id = v.conversation_id and party = 'client'), 0)
           as client_delivered,
       coalesce((select seq from delivered_marks m where m.conversation_id = v.conversation_id and party = 'operator'), 0)
           as operator_delivered
  from conversations v
  join clients k using (client_id)
  join operators o using (operator_id)
  join stores s on s.store_id = v.store_id
 where v.conversation_id = :conversation_id
