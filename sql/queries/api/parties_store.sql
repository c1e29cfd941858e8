-- Whether a client may be written to from within a store (null: from any), and the operator's store if it is that one.
select exists (select from clients cl
                where cl.client_id = :client_id
                  and (cl.store_id is null or cl.store_id = coalesce(:store_id, cl.store_id))) as has_client,
       (select o.store_id from operators o
         where o.operator_id = :operator_id and o.store_id = coalesce(:store_id, o.store_id)) as store_id
