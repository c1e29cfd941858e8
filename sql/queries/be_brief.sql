-- For the rest of this transaction: look, change nothing, and wait for nobody. It leaves nothing in the session, which
-- may be a pooler's.
select set_config('transaction_read_only', 'on', true), set_config('timezone', 'UTC', true),
       set_config('statement_timeout', :statement_timeout, true), set_config('lock_timeout', :lock_timeout, true)
