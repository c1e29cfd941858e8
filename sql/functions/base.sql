-- What the table definitions call: the clock, the form of an XMPP address, and random secrets.

-- The one clock of all rules here. `set shoptalk.now = '…'` stops it at an instant, for tests and to rehearse an
-- opening. Declared STABLE although it is not: the planner then evaluates it once per statement, and can still inline
-- chat_states.
create or replace function shoptalk_now() returns timestamptz
language sql stable as $$
    select coalesce(nullif(current_setting('shoptalk.now', true), '')::timestamptz, clock_timestamp())
$$;

-- Whether the text can be an XMPP address, name@domain, in the form in which servers compare addresses. sql/jid.py
-- produces that form and knows all the rules.
create or replace function is_bare_jid(jid text) returns boolean language sql immutable as $$
    select jid ~ '^[^@/ A-Z]+@[^@/ A-Z]+$' and octet_length(jid) <= 2047
$$;

-- 256 random bits from the server's cryptographic generator: three UUIDs have 366.
create or replace function random_secret() returns bytea language sql volatile as $$
    select sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
$$;
