-- The opposite of arm_wakeup.sql: from now on this worker needs no wake-up.
select pg_advisory_unlock(idle_lock())
