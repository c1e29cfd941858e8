-- How many transaction ids are used up of the two thousand million after which the server refuses to write; multixacts too.
-- And the table of this database that is the furthest behind.
select d.datname as name, greatest(age(d.datfrozenxid), mxid_age(d.datminmxid)) as age,
       (select format('vacuum (freeze) %s', c.oid::regclass) from pg_class c
         where c.relkind in ('r', 'm', 't') and d.datname = current_database()
         order by greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)) desc limit 1) as mend
  from pg_database d
 order by age desc
 limit 1
