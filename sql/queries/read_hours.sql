-- A store's hours as one document; null where there is no such store.
select hours_of(:store_id)
