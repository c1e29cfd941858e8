-- Makes a store's webhook or changes it: `created` says which, `secret` is the one it has now. It then tries at
-- once. A secret that is replaced goes on signing beside the new one for a while (relay/webhook.py).
select created, secret_now as secret from put_webhook(:store_id, :name, cast(:settings as jsonb), :secret, :made, :from_start)
