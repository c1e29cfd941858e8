-- Whether a client may be written to from within a store (null: from any), and the operator's store if it is that one.
select exists (select from clients
                where client_id = :client_id and (store_id is null or store_id = coalesce(:store_id, store_id)))
           as has_client,
       (select store_id from operators
         where operator_id = :operator_id and store_id = coalesce(:store_id, store_id)) as store_id
