-- The opposite of say_asleep.sql: from here on nobody need ring.
select pg_advisory_unlock(bell_lock())
