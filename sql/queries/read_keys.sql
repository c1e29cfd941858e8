-- Every key, revoked ones too: that there ever was one is what closes the API.
select key_id, hash, name, scopes, store_id, revoked_at is not null as revoked from api_keys
