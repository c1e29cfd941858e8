-- What tokens are signed with, the newest last.
select secret from token_secrets order by secret_id
