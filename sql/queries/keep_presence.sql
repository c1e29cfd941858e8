-- A web process's word on who looks through it; the function's comment in schema.sql says the rest.
select keep_presence(:process, cast(:came as jsonb), cast(:gone as jsonb))
