-- Makes the rest of this transaction read-only and limits how long it runs and waits for locks. Nothing stays set in
-- the session, which may belong to a pooler.
select set_config('transaction_read_only', 'on', true), set_config('timezone', 'UTC', true),
       set_config('statement_timeout', :statement_timeout, true), set_config('lock_timeout', :lock_timeout, true)
