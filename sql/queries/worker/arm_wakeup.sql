-- Declares this session's worker idle, so that the next chat wakes it: see wake_idle_worker(). True: it is declared.
-- Null: another worker is idle already, and is woken instead. False: an open transaction has enqueued and will not
-- notify; look again in a moment.
select case when pg_try_advisory_lock(idle_lock()) then true
            when pg_try_advisory_lock_shared(idle_lock())
            then not pg_advisory_unlock_shared(idle_lock()) end as is_idle
