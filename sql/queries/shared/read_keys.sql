-- All API keys, revoked ones too: the API is closed as soon as there has ever been a key.
select key_id, hash, name, scopes, store_id, revoked_at is not null as revoked from api_keys
