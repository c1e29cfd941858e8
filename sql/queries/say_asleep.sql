-- Says that this session's worker will sleep, so that the next chat rings. True: said. Null: another
-- worker sleeps already and will be rung for. False: a transaction is under way that has enqueued and
-- will not ring; look again in a moment.
select case when pg_try_advisory_lock(bell_lock()) then true
            when pg_try_advisory_lock_shared(bell_lock())
            then not pg_advisory_unlock_shared(bell_lock()) end as asleep
