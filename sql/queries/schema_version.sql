-- The version of the schema that is installed.
select version from schema_version
