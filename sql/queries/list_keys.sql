-- The keys for people to look at.
select name, scopes, store_id, created_at, revoked_at from keys order by key_id
