-- The advisory locks, by name.

-- Of the one sender at a time: send_chats() holds it for its transaction, or returns.
create or replace function sender_lock() returns bigint language sql immutable as $$ select 7310579101 $$;

-- Of an idle worker: it holds the lock exclusively on its LISTEN session, and an enqueueing transaction tries to share
-- it. See wake_idle_worker().
create or replace function idle_lock() returns bigint language sql immutable as $$ select 7310579102 $$;

-- Of keep_presence().
create or replace function presence_lock() returns bigint language sql immutable as $$ select 7310579103 $$;

-- Of the one relay that publishes the log to the web nodes (FANOUT=amqp).
create or replace function fanout_lock() returns bigint language sql immutable as $$ select 7310579104 $$;

-- Of the one prune() at a time.
create or replace function prune_lock() returns bigint language sql immutable as $$ select 7310579105 $$;

-- Of the one worker that samples the queue.
create or replace function sample_lock() returns bigint language sql immutable as $$ select 7310579106 $$;

-- Of the hours: first key of one lock for each 64th of the stores, whose ids are the second key. A transaction that
-- holds a chat shares it; one that moves held chats has it alone. See hold_until().
create or replace function hours_lock() returns integer language sql immutable as $$ select 731057910 $$;
