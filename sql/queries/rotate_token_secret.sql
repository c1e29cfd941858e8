-- Signs tokens with a new secret.
select rotate_token_secret(:forget)
