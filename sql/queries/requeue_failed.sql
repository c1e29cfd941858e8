-- Gives every dead letter of a store, or (null) of all, its attempts again; answers how many.
select requeue_failed(:store_id)
