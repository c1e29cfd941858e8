-- The secrets that sign tokens, the newest last.
select secret from token_secrets order by secret_id
