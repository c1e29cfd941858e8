-- Which of some clients, operators and conversations a limited caller may name in a chat. Each limit is null where
-- the caller has none of the kind.
select array(select client_id from clients
              where client_id = any (cast(:client_ids as integer[]))
                and (store_id is null or store_id = coalesce(:store_id, store_id))) as client_ids,
       array(select operator_id from operators
              where operator_id = any (cast(:operator_ids as integer[]))
                and store_id = coalesce(:store_id, store_id)) as operator_ids,
       array(select conversation_id from conversations
              where conversation_id = any (cast(:conversation_ids as integer[]))
                and store_id = coalesce(:store_id, store_id)
                and client_id = coalesce(:client_id, client_id)
                and operator_id = coalesce(:operator_id, operator_id)) as conversation_ids
