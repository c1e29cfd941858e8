-- Makes a key and answers it, the only time that it is seen. Raises ST404, ST409, 23514.
select make_key(:name, cast(:scopes as text[]), cast(:store_id as integer))
