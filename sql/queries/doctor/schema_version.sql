-- The version of the installed schema, and the digests of its function files (null: psql installed them).
select version, functions from schema_version
