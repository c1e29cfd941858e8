-- Makes a key worthless. Raises ST404.
select revoke_key(:name)
