-- The database: types, tables, indexes and sequences, readable from top to bottom. The functions that work on them
-- are in sql/functions/, one file a topic, and are loaded at the end in reading order.
--
-- The life of a chat:  enqueue_chat()  ->  chats + chat_queue  ->  send_chats()  ->  sent_log
--
--   accepted   a row in chats (the history, never rewritten) and a row in chat_queue (small and short-lived)
--   held       due_at of its queue row is the next opening of its store
--   queued     due_at has come; the worker's next claim takes it
--   sent       the queue row is gone and the chat is in sent_log
--   failed     the queue row is gone and chat_failures says why (a dead letter); requeue_chat() gives it new attempts
--   cancelled  the queue row is gone and cancelled_chats has the chat
--
-- Needs PostgreSQL 15 to 18 and no extension. Load it once into an empty database, in one transaction: with
-- `python -m sql` or with `psql -1 -f schema.sql`. Later versions change an existing database with `shoptalk migrate`:
-- a change of a table is a file in sql/upgrades/, a changed function is only edited.

-- What the table definitions below call.
\ir sql/functions/base.sql


-- The schema's version --------------------------------------------------------------------------------------

create table schema_version (
    version integer not null,
    functions jsonb                           -- digest of each installed file of sql/functions/; null: psql installed them
);
create unique index schema_version_single_row on schema_version ((true));
insert into schema_version values (1);


-- Stores and their hours ------------------------------------------------------------------------------------

create table stores (
    store_id integer primary key check (store_id > 0),
    timezone text not null default 'UTC',     -- an IANA name
    urgent_for text[] not null default '{}',  -- the senders whose urgent chats are sent at any hour
    away_notice text,                         -- answers the first held chat of a closed period; null: no answer
    paused_at timestamptz,                    -- since when nothing of it is sent; null: not paused. See pause_store()

    -- The opening period looked up last, a cache that spares the hot paths the calendar. It holds for every instant in
    -- [closed_since, closes_at): the store is closed before opens_at and open from it on. opening_period() is the truth.
    -- closes_at '-infinity': never looked up, or dropped because the hours have changed.
    closed_since timestamptz not null default '-infinity',
    opens_at timestamptz not null default '-infinity',
    closes_at timestamptz not null default '-infinity',
    looked_up_at timestamptz not null default '-infinity',

    -- Not null for a time zone that PostgreSQL knows, an error (22023) for any other.
    constraint stores_timezone check ((timestamptz '2000-01-01' at time zone timezone) is not null),
    constraint stores_urgent_for check (urgent_for <@ array['client', 'operator']),
    constraint stores_away_notice check (char_length(away_notice) between 1 and 299)
);
create index stores_opens_at on stores (opens_at);
create index stores_closes_at on stores (closes_at);
create index stores_closed_since on stores (closed_since);
create index stores_looked_up_at on stores (looked_up_at);

-- The ends of a span of wall-clock time. A span is half-open; one that ends at or before its start runs past midnight.
-- To the minute, as people write them. '24:00' may end a span but not begin one.
create domain span_start as time check (value < time '24:00' and extract(second from value) = 0);
create domain span_end as time check (extract(second from value) = 0);

-- A store's open spans that begin on a weekday, 1 (Monday) to 7. Spans may touch and overlap. No rows: never open.
create table store_hours (
    store_id integer not null references stores,
    weekday smallint not null check (weekday between 1 and 7),
    opens span_start not null,
    closes span_end not null,
    primary key (store_id, weekday, opens)
);

-- Days whose spans differ from their weekday's: they have those in store_exception_spans, or none. Of a yearly exception
-- only month and day count; its year is 2000, which has a 29 February. A single date takes precedence over it.
create table store_exceptions (
    store_id integer not null references stores,
    date date not null,
    yearly boolean not null default false,
    name text check (char_length(name) between 1 and 100),
    primary key (store_id, date, yearly),
    constraint store_exceptions_yearly check (not yearly or extract(year from date) = 2000)
);

create table store_exception_spans (
    store_id integer not null,
    date date not null,
    yearly boolean not null default false,
    opens span_start not null,
    closes span_end not null,
    primary key (store_id, date, yearly, opens),
    foreign key (store_id, date, yearly) references store_exceptions on delete cascade
);

-- The stores that release held chats at a pace, so that a night's backlog does not bury the desk. The row is locked for
-- each chat that becomes held, and only in these stores.
create table store_paces (
    store_id integer primary key references stores,
    per_minute integer not null constraint store_paces_per_minute check (per_minute between 1 and 100000),
    next_at timestamptz not null default '-infinity'   -- the first instant that is still free
);

-- What a change of hours did, or would do (a dry run).
create type hours_change as (
    hours json,               -- as they are now, or would be
    moved integer,            -- chats that are held until another instant;
    from_first timestamptz,   -- the first and the last of these instants before
    from_last timestamptz,
    to_first timestamptz,     -- and after. Null: no opening is known
    to_last timestamptz
);


-- People ----------------------------------------------------------------------------------------------------

create table clients (
    client_id integer primary key check (client_id > 0),
    username text not null check (char_length(username) between 1 and 100),
    location text not null check (char_length(location) between 1 and 100),
    store_id integer references stores,       -- the only store that may write to the client; null: every store
    xmpp_jid text constraint clients_xmpp_jid check (is_bare_jid(xmpp_jid))  -- null: not on XMPP
);

-- Hours in which operators' chats to a client wait, in the client's own time zone.
create table quiet_hours (
    client_id integer primary key references clients,
    timezone text not null,
    starts span_start not null,
    ends span_start not null,
    constraint quiet_hours_timezone check ((timestamptz '2000-01-01' at time zone timezone) is not null),
    constraint quiet_hours_not_all_day check (starts <> ends)
);

create table operators (
    operator_id integer primary key check (operator_id > 0),
    operator_name text not null check (char_length(operator_name) between 1 and 100),
    operator_group text not null check (char_length(operator_group) between 1 and 100),
    store_id integer not null references stores,
    xmpp_jid text constraint operators_xmpp_jid check (is_bare_jid(xmpp_jid))
);


-- Conversations and chats -----------------------------------------------------------------------------------

-- The row's lock numbers a conversation's chats: whoever updates last_seq goes before whoever waits for the lock, so seq
-- order is commit order. fillfactor leaves room for that update to stay on its page (HOT), which is also why there is
-- no index on last_seq and last_chat_at.
create table conversations (
    conversation_id integer primary key check (conversation_id > 0),
    client_id integer not null references clients,
    operator_id integer not null references operators,
    store_id integer not null references stores,
    operator_group text not null,
    last_seq integer not null default 0,
    last_chat_at timestamptz not null default shoptalk_now(),  -- when the chat last_seq was accepted
    created_at timestamptz not null default shoptalk_now(),
    away_notice_at timestamptz,               -- when the last away notice was given
    paused_at timestamptz                     -- since when nothing of it is sent; null: not paused. See pause_conversation()
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
-- For the desks of an operator and of a store, and for a change of a client's quiet hours.
create index conversations_operator on conversations (operator_id);
create index conversations_store on conversations (store_id);
create index conversations_client_id on conversations (client_id);
create index conversations_paused on conversations (paused_at) where paused_at is not null;

-- Where new ids come from. They start above the ids that people choose by hand, so the two rarely meet.
create sequence generated_conversation_ids as integer start 1000000001;
create sequence generated_chat_ids start 1000000000001;

-- Every accepted chat, until it is pruned. Never updated, except for the text of a chat that still waits (edit_chat).
create table chats (
    chat_id bigint primary key,
    conversation_id integer not null references conversations,
    seq integer not null,                     -- 1, 2, 3, … in the conversation, without gaps
    sender text not null constraint chats_sender check (sender in ('client', 'operator')),
    payload text not null,                    -- as it is sent, with the placeholders filled in
    client_id integer not null,               -- of the conversation: enqueue_chat() ensures it
    operator_id integer not null,
    created_at timestamptz not null,
    template text,                            -- as it was posted; null: it had no placeholder
    held_until timestamptz,                   -- as decided when it was accepted; null: not held then
    constraint chats_in_order unique (conversation_id, seq),
    constraint chats_chat_id check (chat_id between 1 and 9007199254740992),  -- 2^53: exact in JSON
    constraint chats_payload check (
        char_length(coalesce(template, payload)) >= 1 and char_length(coalesce(template, payload)) <= 299
        and char_length(payload) <= 4000)
);

-- The chats still to be sent, and nothing else: one narrow row each. No foreign key on purpose: its trigger would
-- cost each enqueue a tenth, and only the functions write here.
create table chat_queue (
    due_at timestamptz not null,              -- to be sent from this instant on
    held_since timestamptz,                   -- null: never held, or retried; it is in the live lane
    chat_id bigint not null,
    conversation_id integer not null,
    seq integer not null,
    store_id integer not null,
    quiet_for integer,                        -- the client whose quiet hours delay it; null: none
    any_hour boolean not null default false,  -- sent at any hour: urgent, released by an operator, or an away notice
    paused boolean not null default false,    -- of a paused conversation: never due, and no change of hours moves it
    primary key (conversation_id, seq)
) with (
    -- A hot table whose rows live for milliseconds. Vacuum by count, not by share, and without pauses; no truncation,
    -- which would lock the table at its quietest moment.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000, vacuum_truncate = off
);
-- Two lanes, so that live chats do not wait behind a night's flood: the claim is exactly one range of each index.
-- Ties go by seq, never by the caller's chat_id: so the order agrees with each conversation's, and at an opening the
-- first chat of every conversation goes first.
-- Held chats come due by the thousand at one instant; there the conversation_id separates claimed rows from the rest.
create index chat_queue_live on chat_queue (due_at, seq) where held_since is null;
create index chat_queue_held on chat_queue (due_at, seq, conversation_id) where held_since is not null;

-- The sent chats in the order of sending. position has no gaps and is commit order (it is given under the sender's
-- lock), so a reader at position n has seen everything below n. Append-only, except that prune() removes the oldest.
create table sent_log (
    position bigint primary key,
    chat_id bigint not null,
    conversation_id integer not null,
    seq integer not null,
    sent_at timestamptz not null,
    -- Also finds the entries of one conversation; it includes position for the streams that resume.
    constraint sent_log_once unique (conversation_id, seq) include (position)
) with (autovacuum_vacuum_insert_scale_factor = 0.1);

-- Why sending a chat failed. dead_at set: a dead letter, given up after its attempts.
create table chat_failures (
    chat_id bigint primary key references chats,
    attempts integer not null,
    reason text not null,
    last_attempt_at timestamptz not null,
    dead_at timestamptz
);
create index chat_failures_dead on chat_failures (dead_at) where dead_at is not null;

create table cancelled_chats (
    chat_id bigint primary key references chats,
    cancelled_at timestamptz not null
);
create index cancelled_chats_at on cancelled_chats (cancelled_at);  -- prune() takes the oldest

-- Up to which chat each party has read. Never goes back.
create table read_marks (
    conversation_id integer not null references conversations on delete cascade,
    party text not null check (party in ('client', 'operator')),
    seq integer not null,
    primary key (conversation_id, party)
) with (fillfactor = 70);

-- Up to which chat each party's device has confirmed delivery (XEP-0184). Never goes back.
create table delivered_marks (
    conversation_id integer not null references conversations on delete cascade,
    party text not null check (party in ('client', 'operator')),
    seq integer not null,
    primary key (conversation_id, party)
) with (fillfactor = 70);


-- Accepting chats: what sql/functions/enqueue.sql takes and returns --------------------------------------------

create type enqueued_chat as (
    chat_id bigint,
    conversation_id integer,
    seq integer,
    sender text,
    payload text,
    client_id integer,
    operator_id integer,
    created_at timestamptz,
    state text,
    release_at timestamptz,   -- when a held chat is due; null: it is not held, or no opening is known
    is_repeat boolean         -- true: the same request had been accepted before, and this is its first answer
);

-- One chat of a list to accept.
create type chat_item as (
    conversation_id integer, client_id integer, operator_id integer,
    payload text, sender text, chat_id bigint, urgent boolean, index bigint
);

-- What became of it.
create type enqueued_item as (
    index bigint,             -- in the list, from 1
    chat_id bigint,           -- this and the next as in enqueued_chat; null: it was rejected
    conversation_id integer,
    seq integer,
    sender text,
    payload text,
    client_id integer,
    operator_id integer,
    created_at timestamptz,
    state text,
    release_at timestamptz,
    is_repeat boolean,
    error_state text,         -- null: it was accepted; otherwise SQLSTATE, field and text of the error of enqueue_chat()
    error_field text,
    error_reason text
);


-- Sending chats: what sql/functions/send.sql takes and returns -------------------------------------------------

-- A place in the queue's order.
create type queue_position as (due_at timestamptz, seq integer, conversation_id integer);

-- Where the claim starts in each lane. Held chats come due by the thousand at one instant, so their lane needs the whole
-- key: by (due_at, seq) alone each claim walked the thousands of dead rows of one seq.
create type claim_floor as (live timestamptz, held queue_position);

create type send_report as (
    claimed integer,          -- queue rows claimed;
    sent integer,             -- of them, moved to the log
    failed integer,           -- of them, whose sending raised an error (retried later, or given up as dead letters)
    -- Where the next claim may start; null: nothing of the lane was claimed. In the live lane that is the last due_at, but
    -- at least a second ago: what was enqueued since may not be committed yet. In the held lane it is the last row's place.
    live_floor timestamptz,
    held_floor queue_position,
    below_floor boolean,      -- a chat waits for an earlier one that is due below the floor
    live_sent integer,        -- of sent, those of the live lane
    live_waited interval,     -- how long the one that waited longest had been due; null: none was sent
    held_waited interval,     -- the same in the held lane: since its store opened
    failures jsonb            -- [{chat_id, conversation_id, seq, attempts, dead, reason}]; null: none failed
);


-- Presence --------------------------------------------------------------------------------------------------

-- Who has a stream open in which web process. A process reports every few seconds that it is alive; one that has not for
-- half a minute no longer counts. By the machine's own clock, since it is no rule of the hours. Unlogged: after a crash
-- of the server every process reports everything again.
create unlogged table web_processes (
    process text primary key,
    seen_at timestamptz not null
) with (fillfactor = 50);
create unlogged table presence (
    scope text not null,                      -- what the stream is of: conversation_id, client_id, …
    scope_id integer not null,                -- and its id
    party text not null,                      -- who is present: client or operator
    process text not null,
    primary key (scope, scope_id, party, process)
);


-- Channels --------------------------------------------------------------------------------------------------

-- One destination outside: a store's webhook, RabbitMQ, the XMPP domain. A relay reads the log from the channel's cursor,
-- publishes, waits for the receiver's confirmation, and only then moves the cursor: at least once, in order, and with the
-- chat's id, by which the receiver recognizes a repeat. The life of a channel:
--
--   lease_channel()   one owner at a time; each lease has the next fencing token, and an older one moves nothing
--   settle_batch()    the cursor moves, rejected chats become dead letters, a failure is retried later
--   paused, disabled  nobody gets a lease (disabled: by the receiver's own answer, or after the last retry)
create table channels (
    channel_id integer generated always as identity primary key,
    store_id integer references stores,       -- null: of the whole system
    name text not null constraint channels_name check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    kind text not null constraint channels_kind check (kind in ('webhook', 'amqp', 'xmpp')),
    settings jsonb not null default '{}',     -- a webhook's url, secret and times
    cursor bigint not null,                   -- every entry of the log up to this position is settled
    token bigint not null default 0,          -- of the last lease
    lease_until timestamptz not null default '-infinity',
    leased_by text,
    consecutive_failures integer not null default 0,
    next_attempt_at timestamptz not null default '-infinity',
    last_error text,                          -- kept after recovery: see consecutive_failures
    last_error_at timestamptz,
    paused_at timestamptz,
    disabled_at timestamptz,
    created_at timestamptz not null default shoptalk_now(),
    constraint channels_once unique nulls not distinct (store_id, name)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Chats that a channel's receiver rejected for good, or that had no receiver. requeue_at set: delivered once more from
-- then on, late and with the same id.
create table channel_dead_letters (
    channel_id integer not null references channels on delete cascade,
    position bigint not null,
    chat_id bigint not null,
    reason text not null,
    attempts integer not null default 1,
    failed_at timestamptz not null,
    requeue_at timestamptz,
    primary key (channel_id, position)
);
create index channel_dead_letters_requeued on channel_dead_letters (channel_id, position) where requeue_at is not null;
create index channel_dead_letters_chat on channel_dead_letters (channel_id, chat_id);

-- What a webhook's receiver answered, for inspection; the newest of each channel are kept: see prune_channels().
create table channel_attempts (
    attempt_id bigint generated always as identity primary key,
    channel_id integer not null references channels on delete cascade,
    chat_id bigint not null,
    attempted_at timestamptz not null,
    took_seconds real not null,
    status integer,                           -- of the answer; null: none came
    error text                                -- null: delivered
);
create index channel_attempts_newest on channel_attempts (channel_id, attempt_id);

-- Inbound messages without a chat_id of their own, by the id that they have where they come from: a redelivery finds its
-- chat. Kept for a week.
create table inbound_messages (
    source text not null,                     -- the kind of channel
    message_id text not null,
    chat_id bigint not null,
    received_at timestamptz not null,
    primary key (source, message_id)
);
create index inbound_messages_received on inbound_messages (received_at);


-- Retention -------------------------------------------------------------------------------------------------

-- One row: where the log begins now, so that a search for its first entry skips the dead rows in front; and how the last
-- prune() went.
create table pruned (
    upto bigint not null,                     -- all entries of the log up to this position are gone
    at timestamptz,                           -- when prune() last ran; null: never
    keep interval,                            -- what it had to keep
    held_by integer                           -- the channel that needs older entries than that; null: none
);
create unique index pruned_single_row on pruned ((true));
insert into pruned (upto) values (0);

create type prune_report as (
    sent bigint,              -- sent chats removed, with their entries of the log
    cancelled bigint,         -- cancelled chats removed
    more boolean,             -- there are more: call again
    held_by integer           -- the channel that needs entries older than the rest; null: none
);


-- API keys and tokens ---------------------------------------------------------------------------------------

-- What programs authenticate with. A key has 256 random bits, so guessing is hopeless and a plain SHA-256 is enough to
-- store it. As soon as there is a row here, revoked or not, the API requires a key from everybody.
create table api_keys (
    key_id integer generated always as identity primary key,
    name text not null constraint api_keys_name check (char_length(name) between 1 and 100),
    hash bytea not null constraint api_keys_hash unique,
    scopes text[] not null constraint api_keys_scopes check (
        scopes <@ array['send', 'read', 'admin'] and cardinality(scopes) > 0),
    store_id integer references stores,       -- null: all stores
    created_at timestamptz not null default shoptalk_now(),
    revoked_at timestamptz
);
create unique index api_keys_live_name on api_keys (name) where revoked_at is null;

-- What tokens are signed with: the newest signs, and each verifies until a day after its successor came.
create table token_secrets (
    secret_id integer generated always as identity primary key,
    secret bytea not null default random_secret(),
    created_at timestamptz not null default shoptalk_now()
);
insert into token_secrets default values;


-- Samples of the queue ----------------------------------------------------------------------------------------

-- queue_status every 30 s, for a day: the plot of the desk's queue view and the metrics.
create table queue_samples (
    at timestamptz primary key,               -- the beginning of its 30 s
    held bigint not null,
    queued bigint not null,
    failed bigint not null,
    sent bigint not null,                     -- since ever; the rate is the difference of two
    cancelled bigint not null,
    oldest_held timestamptz,                  -- since when the chat that is held longest has been held
    next_release timestamptz,
    channels jsonb not null,                  -- see channel_totals
    -- How long the chat that was due first had waited. queue_pressure() does not see one that the claim passed over.
    queued_seconds double precision not null default 0
);


-- Functions, in reading order ---------------------------------------------------------------------------------

\ir sql/functions/errors.sql
\ir sql/functions/locks.sql
\ir sql/functions/hours.sql
\ir sql/functions/enqueue.sql
\ir sql/functions/send.sql
\ir sql/functions/signals.sql
\ir sql/functions/operate.sql
\ir sql/functions/hours_changes.sql
\ir sql/functions/presence.sql
\ir sql/functions/channels.sql
\ir sql/functions/inbound.sql
\ir sql/functions/clients.sql
\ir sql/functions/prune.sql
\ir sql/functions/keys.sql
\ir sql/functions/triggers.sql
\ir sql/functions/views.sql
\ir sql/functions/samples.sql
\ir sql/functions/roles.sql
