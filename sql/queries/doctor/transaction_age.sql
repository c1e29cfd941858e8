-- How many of the 2,000 million transaction ids (or multixact ids) are used up, after which the server refuses to
-- write; and the vacuum of the table of this database that is furthest behind.
select d.datname as name, greatest(age(d.datfrozenxid), mxid_age(d.datminmxid)) as age,
       (select format('vacuum (freeze) %s', c.oid::regclass) from pg_class c
         where c.relkind in ('r', 'm', 't') and d.datname = current_database()
         order by greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)) desc limit 1) as fix
  from pg_database d
 order by age desc
 limit 1
