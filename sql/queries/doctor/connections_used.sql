-- How many of the whole server's unreserved connections are in use, and how many there are.
select (select sum(numbackends) from pg_stat_database)::integer as used,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true), '0')::integer as available
