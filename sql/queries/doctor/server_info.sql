-- The server, whether it has our schema, and whether the account is shown the sessions of others.
select current_setting('server_version') as version, current_setting('server_version_num')::integer as version_number,
       pg_is_in_recovery() as is_standby, current_setting('default_transaction_read_only')::boolean as is_read_only,
       to_regclass('schema_version') is not null as has_schema, quote_ident(current_user) as account,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all
