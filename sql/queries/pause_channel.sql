-- See the function of this name in schema.sql. Raises ST404.
select pause_channel(:name, :store_id)
