-- The API keys, for people to read.
select name, scopes, store_id, created_at, revoked_at from keys order by key_id
