-- API keys and the secret that signs tokens: make, revoke, rotate.

-- Creates a key and returns it; it is shown only this once. store_id null: of all stores. Raises ST409 while another
-- key has the name, ST404 for an unknown store, 23514 for an unknown scope.
create or replace function make_key(name text, scopes text[] default '{send,read,admin}', store_id integer default null)
returns text language plpgsql volatile as $$
declare
    key text := 'shoptalk_' || encode(random_secret(), 'hex');
begin
    if store_id is not null then
        perform check_store(store_id);
    end if;
    insert into api_keys (name, hash, scopes, store_id)
    values (make_key.name, sha256(convert_to(key, 'UTF8')), make_key.scopes, make_key.store_id)
    on conflict do nothing;
    if not found then
        raise 'there is already a key %', name using errcode = 'ST409', column = 'name';
    end if;
    return key;
end $$;

-- Revokes a key, and with it every token that it has minted; web processes notice within 5 s. Raises ST404 where no
-- live key has the name.
create or replace function revoke_key(name text) returns void
language plpgsql volatile as $$
begin
    update api_keys k set revoked_at = shoptalk_now() where k.name = revoke_key.name and k.revoked_at is null;
    if not found then
        raise 'there is no key %', name using errcode = 'ST404', column = 'name';
    end if;
end $$;

-- Signs tokens with a new secret from now on, and removes the secrets whose successor is older than a day. forget: all
-- others too, so that every token issued until now is invalid.
create or replace function rotate_token_secret(forget boolean default false) returns void
language sql volatile as $$
    with added as (
        insert into token_secrets default values
    )
    delete from token_secrets t
     where rotate_token_secret.forget
        or exists (select from token_secrets newer
                    where newer.secret_id > t.secret_id and newer.created_at < shoptalk_now() - interval '1 day')
$$;
