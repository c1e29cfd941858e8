-- The clients, operators and conversations of these that a caller with limits may name in a chat. A limit is null where
-- the caller does not have it.
select array(select cl.client_id from clients cl
              where cl.client_id = any (cast(:client_ids as integer[]))
                and (cl.store_id is null or cl.store_id = coalesce(:store_id, cl.store_id))) as client_ids,
       array(select o.operator_id from operators o
              where o.operator_id = any (cast(:operator_ids as integer[]))
                and o.store_id = coalesce(:store_id, o.store_id)) as operator_ids,
       array(select cv.conversation_id from conversations cv
              where cv.conversation_id = any (cast(:conversation_ids as integer[]))
                and cv.store_id = coalesce(:store_id, cv.store_id)
                and cv.client_id = coalesce(:client_id, cv.client_id)
                and cv.operator_id = coalesce(:operator_id, cv.operator_id)) as conversation_ids
