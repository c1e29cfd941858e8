-- See the function of this name in schema.sql. Raises ST404.
select replay_channel(:name, :store_id, :after)
