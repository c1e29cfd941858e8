-- The database as it is today, readable from top to bottom. Older databases become it by sql/migrations: what is
-- changed here gets a migration there.
--
-- The life of a chat:  enqueue_chat()  ->  chats + chat_queue  ->  send_chats()  ->  sent_log
--
--   accepted   a row in chats (history, never rewritten) and a pointer in chat_queue (hot, small)
--   held       the pointer's due_at is the store's next opening
--   queued     the pointer's due_at has come
--   sent       the pointer is gone and the chat stands in sent_log
--   failed     the pointer is gone and chat_failures says why (dead letter); requeue_chat() undoes it
--   cancelled  the pointer is gone and cancelled_chats has the chat
--
-- Needs PostgreSQL 15 to 18 and no extension. Loaded once, in one transaction, by `python -m sql`
-- (under an advisory lock) or by `psql -1 -f schema.sql`.

create table schema_version (
    version integer not null
);
create unique index schema_version_single_row on schema_version ((true));
insert into schema_version values (4);


-- Clock and locks -----------------------------------------------------------------------------------

-- The one clock of every rule here. `set shoptalk.now = '…'` stops it at an instant: for tests and for
-- rehearsing an opening; unset, it runs. Called stable, though it runs within a statement too: so it is read
-- once a statement and does not keep the planner from looking into chat_states.
create function shoptalk_now() returns timestamptz
language sql stable as $$
    select coalesce(nullif(current_setting('shoptalk.now', true), '')::timestamptz, clock_timestamp())
$$;

-- Advisory lock of the one sender at a time: send_chats() holds it for its transaction, or stands by.
create function sender_lock() returns bigint language sql immutable as $$ select 7310579101 $$;

-- Advisory lock of the bell. A worker about to sleep holds it exclusively on its LISTEN session; an
-- enqueueing transaction tries to share it. See ring_for_sleepers().
create function bell_lock() returns bigint language sql immutable as $$ select 7310579102 $$;

-- Advisory locks of the hours, one for each 64th of the stores (with the store's number as second key). A
-- transaction that holds a chat shares it, one that moves what is held has it alone: see hold_until().
create function hours_lock() returns integer language sql immutable as $$ select 731057910 $$;

-- Advisory lock of the one relay that publishes the log to the web nodes (FANOUT=amqp).
create function fanout_lock() returns bigint language sql immutable as $$ select 7310579104 $$;

-- Advisory lock of keep_presence().
create function presence_lock() returns bigint language sql immutable as $$ select 7310579103 $$;


-- People and stores ---------------------------------------------------------------------------------

create table stores (
    store_id integer primary key check (store_id > 0),
    timezone text not null default 'UTC',     -- an IANA name
    urgent_for text[] not null default '{}',  -- the senders whose urgent chats go at any hour
    away_notice text,                         -- answers the first held chat of a closed period; null: nothing does
    paused_at timestamptz,                    -- since when nothing of it is sent; null: it is. See pause_store()

    -- The opening period last looked up, right for every instant in [closed_since, closes_at): closed
    -- before opens_at, open from it. It spares the hot paths the calendar; opening_period() is the truth.
    -- closes_at '-infinity': never looked up, or forgotten because the hours have changed.
    closed_since timestamptz not null default '-infinity',
    opens_at timestamptz not null default '-infinity',
    closes_at timestamptz not null default '-infinity',
    looked_up_at timestamptz not null default '-infinity',

    -- Not null for a zone that PostgreSQL knows, an error (22023) for any other.
    constraint stores_timezone check ((timestamptz '2000-01-01' at time zone timezone) is not null),
    constraint stores_urgent_for check (urgent_for <@ array['client', 'operator']),
    constraint stores_away_notice check (char_length(away_notice) between 1 and 299)
);
create index stores_opens_at on stores (opens_at);
create index stores_closes_at on stores (closes_at);
create index stores_closed_since on stores (closed_since);
create index stores_looked_up_at on stores (looked_up_at);

-- A span of wall-clock time, half-open; one that ends at or before its start runs past midnight. In minutes,
-- as people write them, and '24:00' may end one but not begin one.
create domain span_start as time check (value < time '24:00' and extract(second from value) = 0);
create domain span_end as time check (extract(second from value) = 0);

-- A store's open spans that begin on a weekday, 1 (Monday) to 7. Spans may touch and overlap. None: never open.
create table store_hours (
    store_id integer not null references stores,
    weekday smallint not null check (weekday between 1 and 7),
    opens span_start not null,
    closes span_end not null,
    primary key (store_id, weekday, opens)
);

-- Days whose spans are others than their weekday's: those in store_exception_spans, or none. Of a yearly one
-- only month and day count, its year is 2000 (which has a 29 February); one of a single date goes before it.
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

-- The stores that release what was held at a pace, so that a night's backlog does not bury the desk. The row's
-- lock is taken for each chat that becomes held, and by those stores only.
create table store_paces (
    store_id integer primary key references stores,
    per_minute integer not null constraint store_paces_per_minute check (per_minute between 1 and 100000),
    next_at timestamptz not null default '-infinity'   -- the first instant that is still free
);

-- A new store, open every day; nothing where there is one already.
create function add_store(
    store_id integer, timezone text default 'UTC', opens time default '09:00', closes time default '14:00')
returns void language sql volatile as $$
    with added as (
        insert into stores (store_id, timezone) values (add_store.store_id, add_store.timezone)
        on conflict do nothing
        returning store_id
    )
    insert into store_hours select a.store_id, weekday, add_store.opens, add_store.closes
      from added a, generate_series(1, 7) weekday
$$;

-- Whether it may be somebody's XMPP address, name@domain, in the form in which servers compare it; sql/jid.py makes
-- that form and knows all the rules.
create function is_bare_jid(jid text) returns boolean language sql immutable as $$
    select jid ~ '^[^@/ A-Z]+@[^@/ A-Z]+$' and octet_length(jid) <= 2047
$$;

create table clients (
    client_id integer primary key check (client_id > 0),
    username text not null check (char_length(username) between 1 and 100),
    location text not null check (char_length(location) between 1 and 100),
    store_id integer references stores,       -- whose key added it, and who alone may write to it; null: every store
    xmpp_jid text constraint clients_xmpp_jid check (is_bare_jid(xmpp_jid))  -- null: not on XMPP
);

-- A client's night: chats from an operator wait for its end too. In the client's own zone.
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


-- Conversations and chats ---------------------------------------------------------------------------

-- The row's lock is what numbers a conversation's chats: whoever updates last_seq goes before whoever
-- waits, so seq order is commit order. fillfactor leaves room for that update to stay on its page (HOT);
-- hence no index on last_seq and last_chat_at.
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
    paused_at timestamptz                     -- since when nothing of it is sent; null: it is. See pause_conversation()
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
-- What an operator's and a store's desk list, and whose quiet hours move what waits.
create index conversations_operator on conversations (operator_id);
create index conversations_store on conversations (store_id);
create index conversations_client_id on conversations (client_id);
create index conversations_paused on conversations (paused_at) where paused_at is not null;

-- What new ids are drawn from: above what people choose by hand, so that they seldom meet.
create sequence generated_conversation_ids as integer start 1000000001;
create sequence generated_chat_ids start 1000000000001;

-- Every chat accepted, until it is pruned. Never updated, but for the text of one that still waits (edit_chat).
create table chats (
    chat_id bigint primary key,
    conversation_id integer not null references conversations,
    seq integer not null,                     -- 1, 2, 3, … in the conversation, no gaps
    sender text not null constraint chats_sender check (sender in ('client', 'operator')),
    payload text not null,                    -- as it is sent, placeholders filled in
    client_id integer not null,               -- of the conversation: enqueue_chat() sees to it
    operator_id integer not null,
    created_at timestamptz not null,
    template text,                            -- as it was posted; null where it had no placeholder
    release_at timestamptz,                   -- until when it was held when accepted; null: not at all
    constraint chats_in_order unique (conversation_id, seq),
    constraint chats_chat_id check (chat_id between 1 and 9007199254740992),  -- 2^53: exact in JSON
    constraint chats_payload check (
        char_length(coalesce(template, payload)) between 1 and 299 and char_length(payload) <= 4000)
);

-- The chats still to be sent, nothing else: one narrow pointer each. No foreign key on purpose: its
-- trigger would cost each enqueue a tenth, and only the functions below write here.
create table chat_queue (
    due_at timestamptz not null,              -- may go from this instant
    held_since timestamptz,                   -- null: never held, or retried: the live lane
    chat_id bigint not null,
    conversation_id integer not null,
    seq integer not null,
    store_id integer not null,
    client_id integer,                        -- not null: goes not in this client's quiet hours
    urgent boolean not null default false,    -- goes at any hour
    paused boolean not null default false,    -- of a paused conversation: due never, and nobody moves it
    primary key (conversation_id, seq)
) with (
    -- A hot table: rows live for milliseconds. Vacuum by count, not by share, and without pauses; no
    -- truncation, which would lock the table at its quietest moment.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000, vacuum_truncate = off
);
-- Two lanes, so that live chats do not wait behind a night's flood: the claim is exactly one range of each index.
-- Ties go by seq, never by the caller's chat_id: so the order agrees with each conversation's, and at an
-- opening every conversation's first chat goes first.
-- The held come due by the thousand at one instant: there the conversation keeps apart what a claim has done with.
create index chat_queue_live on chat_queue (due_at, seq) where held_since is null;
create index chat_queue_held on chat_queue (due_at, seq, conversation_id) where held_since is not null;

-- What was sent, in the order of sending. position has no gaps and is commit order (it is given under
-- the sender's lock), so a reader at position n has seen everything below n. Append only, but for prune() in front.
create table sent_log (
    position bigint primary key,
    chat_id bigint not null,
    conversation_id integer not null,
    seq integer not null,
    sent_at timestamptz not null,
    -- Also how a conversation's own entries are found; position is in it for the streams that resume.
    constraint sent_log_once unique (conversation_id, seq) include (position)
) with (autovacuum_vacuum_insert_scale_factor = 0.1);

-- Why sending a chat raised. dead_at set: a dead letter, given up after its attempts.
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

-- Up to which chat each party has read; never goes back.
create table read_marks (
    conversation_id integer not null references conversations on delete cascade,
    reader text not null check (reader in ('client', 'operator')),
    seq integer not null,
    primary key (conversation_id, reader)
) with (fillfactor = 70);

-- Up to which chat each party's device has said that it has them (XEP-0184); never goes back.
create table delivered_marks (
    conversation_id integer not null references conversations on delete cascade,
    party text not null check (party in ('client', 'operator')),
    seq integer not null,
    primary key (conversation_id, party)
) with (fillfactor = 70);


-- Opening hours -------------------------------------------------------------------------------------

-- A span of wall-clock time that begins on a day, as instants. By PostgreSQL's own rule, a time that a clock
-- change skips is read by the clock from before it (02:30 is then what the new clock calls 03:30), and one that
-- it repeats is the second. What that leaves empty or reversed is no span.
create function span_range(day date, opens time, closes time, timezone text) returns tstzrange
language sql immutable as $$
    select case when starts < ends then tstzrange(starts, ends) else 'empty' end
      from (select (day + opens) at time zone timezone as starts,
                   (day + closes + case when closes <= opens then interval '1 day' else '0' end)
                       at time zone timezone as ends) s
$$;

-- The days from first_day to last_day with the exception that each is in the store, if it is one.
create function days_of(store_id integer, first_day date, last_day date)
returns table (day date, exception_date date, yearly boolean, name text)
language sql stable as $$
    select d.day, coalesce(once.date, each.date), once.date is null and each.date is not null,
           case when once.date is null then each.name else once.name end
      from (select t::date as day, make_date(2000, extract(month from t)::integer, extract(day from t)::integer) as in_2000
              from generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') t) d
      left join store_exceptions once on once.store_id = days_of.store_id and once.date = d.day and not once.yearly
      left join store_exceptions each on each.store_id = days_of.store_id and each.date = d.in_2000 and each.yearly
$$;

-- The store's spans that begin on those days, days of its own zone: the exception's, or the weekday's; a paused store
-- has none. The one place that knows how hours are kept; all else asks open_ranges().
create function opening_spans(store_id integer, first_day date, last_day date)
returns table (day date, opens time, closes time, span tstzrange)
language sql stable as $$
    select d.day, t.opens, t.closes, span_range(d.day, t.opens, t.closes, s.timezone)
      from stores s
     cross join days_of(opening_spans.store_id, first_day, last_day) d
     cross join lateral (
               select h.opens, h.closes from store_hours h
                where d.exception_date is null
                  and h.store_id = s.store_id and h.weekday = extract(isodow from d.day)
               union all
               select x.opens, x.closes from store_exception_spans x
                where x.store_id = s.store_id and x.date = d.exception_date and x.yearly = d.yearly) t
     where s.store_id = opening_spans.store_id and s.paused_at is null
$$;

-- When the store is open within those days, from the first one's midnight to the last one's: touching and
-- overlapping spans are one. Spans of two days before can reach in: one runs past midnight, and a zone that
-- changes sides of the date line skips a day.
-- (In plpgsql, which keeps its plans.)
create function open_ranges(store_id integer, first_day date, last_day date) returns tstzmultirange
language plpgsql stable as $$
declare
    zone text := (select s.timezone from stores s where s.store_id = open_ranges.store_id);
begin
    return coalesce((select range_agg(o.span) from opening_spans(open_ranges.store_id, first_day - 2, last_day) o), '{}')
           * tstzmultirange(tstzrange(first_day::timestamp at time zone zone, (last_day + 1)::timestamp at time zone zone));
end $$;

-- The opening period that decides at the instant `at`: the store is closed in [closed_since, opens_at) and open
-- in [opens_at, closes_at), and closed_since <= at < closes_at. Infinite where there is no such change within
-- eight years each way (a yearly 29 February is as far), or at all: without exceptions a year shows all.
create function opening_period(
    store_id integer, at timestamptz,
    out closed_since timestamptz, out opens_at timestamptz, out closes_at timestamptz)
language plpgsql stable as $$
#variable_conflict use_variable
declare
    store stores;
    today date;
    days integer;
    first_at timestamptz;
    end_at timestamptz;
    ranges tstzmultirange;
begin
    select * into strict store from stores s where s.store_id = opening_period.store_id;
    today := (at at time zone store.timezone)::date;
    foreach days in array case when exists (select from store_exceptions e where e.store_id = store.store_id)
                               then '{8, 60, 400, 3000}' else '{8, 60, 400}' end::integer[]
    loop
        first_at := (today - days)::timestamp at time zone store.timezone;
        end_at := (today + days + 1)::timestamp at time zone store.timezone;
        ranges := open_ranges(store.store_id, today - days, today + days);
        select max(upper(r)) into closed_since from unnest(ranges) r where upper(r) <= at;
        select lower(r), upper(r) into opens_at, closes_at
          from unnest(ranges) r where upper(r) > at order by r limit 1;
        exit when closed_since is not null and closes_at < end_at;
    end loop;
    -- Cut off by the window: no change there.
    closed_since := coalesce(closed_since, '-infinity');
    opens_at := case when opens_at = first_at then '-infinity' else coalesce(opens_at, 'infinity') end;
    closes_at := case when closes_at < end_at then closes_at else 'infinity' end;
end $$;

-- When a chat of the store that arrives at the instant `at` may go: null when it is open, otherwise its next
-- opening, 'infinity' if it has none. Both ends count as one would say them: open at 09:00:00 sharp, closed at
-- 14:00:00 sharp.
create function release_at(store_id integer, at timestamptz) returns timestamptz
language plpgsql stable as $$
declare
    store stores;
    opening timestamptz;
begin
    select * into strict store from stores s where s.store_id = release_at.store_id;
    if at >= store.closed_since and at < store.closes_at then
        opening := store.opens_at;
    else
        opening := (opening_period(store.store_id, at)).opens_at;
    end if;
    return case when opening > at then opening end;
end $$;

-- The client's quiet hours that begin on those days, days of the client's own zone.
create function quiet_ranges(client_id integer, first_day date, last_day date) returns tstzmultirange
language sql stable as $$
    select coalesce(range_agg(span_range(d::date, q.starts, q.ends, q.timezone)), '{}')
      from quiet_hours q, generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') d
     where q.client_id = quiet_ranges.client_id
$$;

create function is_quiet(client_id integer, at timestamptz) returns boolean
language sql stable as $$
    select at <@ quiet_ranges(is_quiet.client_id, (at at time zone 'UTC')::date - 3, (at at time zone 'UTC')::date + 1)
$$;

-- The same for a chat that waits for the client's night too; client_id null: for nobody's. 'infinity' where the
-- two never meet within a year.
create function release_at(store_id integer, client_id integer, at timestamptz) returns timestamptz
language plpgsql stable as $$
declare
    opening timestamptz := release_at(store_id, at);
    today date := (at at time zone 'UTC')::date;
    days integer;
begin
    if client_id is null or opening is null and not is_quiet(client_id, at) then
        return opening;
    end if;
    foreach days in array '{3, 35, 400}'::integer[] loop
        select min(greatest(lower(r), at)) into opening
          from unnest(open_ranges(store_id, today - 1, today + days)
                      - quiet_ranges(client_id, today - 3, today + days + 3)) r
         where upper(r) > at;
        exit when opening is not null;
    end loop;
    return coalesce(opening, 'infinity');
end $$;

-- The next free instant from `earliest` on at the store's pace, which it takes; `earliest` where the store has
-- none. Never past a closing: then it is at the next opening. Waits for others who take one.
create function take_slot(store_id integer, earliest timestamptz) returns timestamptz
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    pace store_paces;
    slot timestamptz;
begin
    select * into pace from store_paces p where p.store_id = take_slot.store_id for update;
    if not found or earliest = 'infinity' then
        return earliest;
    end if;
    slot := greatest(earliest, pace.next_at);
    slot := coalesce(release_at(store_id, slot), slot);
    update store_paces p set next_at = slot + interval '1 minute' / pace.per_minute
     where p.store_id = take_slot.store_id and slot < 'infinity';
    return slot;
end $$;

-- Until when a chat accepted at the instant `at` is held, null when it is not, and from when its pointer is due.
-- While somebody is changing the hours of the store, whose outcome cannot be seen yet, the pointer is due at
-- once: so the claim decides, by the new hours. Otherwise whoever changes them waits for this transaction to end
-- (they share the lock), and then sees the pointer and moves it.
create function hold_until(
    store_id integer, client_id integer, at timestamptz, out held_until timestamptz, out due_at timestamptz)
language plpgsql volatile as $$
begin
    due_at := at;
    if pg_try_advisory_xact_lock_shared(hours_lock(), store_id & 63) then
        held_until := release_at(store_id, client_id, at);
        if held_until is not null then
            held_until := take_slot(store_id, held_until);
            if client_id is not null then
                held_until := coalesce(release_at(store_id, client_id, held_until), held_until);
            end if;
            due_at := held_until;
        end if;
    else
        held_until := release_at(store_id, client_id, at);
    end if;
end $$;

-- Looks a store's opening period up anew.
create function look_up_opening_period(store_id integer, at timestamptz) returns void
language sql volatile as $$
    update stores s
       set (closed_since, opens_at, closes_at) = (select p.* from opening_period(s.store_id, at) p), looked_up_at = at
     where s.store_id = look_up_opening_period.store_id
$$;

-- Brings the looked-up opening periods up to the instant `at`. Never waits: a store whose row somebody has
-- locked stays as it is, and its chats wait (put_back), not everybody's. Not too many at once, lest sending stand
-- still where thousands of stores close on the hour: the rest is done by the next claim.
create function refresh_opening_periods(at timestamptz) returns void
language sql volatile set enable_seqscan = off as $$
    select look_up_opening_period(store_id, at)
      from (select store_id from stores
             where store_id in (select store_id from stores where closes_at <= at
                                union all select store_id from stores where closed_since > at)
             limit 500 for update skip locked) s
$$;

-- Gives what the store holds the instants that its hours say now: all of it the next opening, or at its pace
-- from there on, in the order that it has. Answers how many chats move, and between which instants; with
-- dry_run that is all.
create function hold_anew(
    store_id integer, at timestamptz, dry_run boolean default false,
    out moved integer, out from_first timestamptz, out from_last timestamptz,
    out to_first timestamptz, out to_last timestamptz)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    opening timestamptz := coalesce(release_at(hold_anew.store_id, at), at);
    step interval := (select interval '1 minute' / p.per_minute from store_paces p where p.store_id = hold_anew.store_id);
    today date := (select (at at time zone s.timezone)::date from stores s where s.store_id = hold_anew.store_id);
    befores bigint[];        -- of a paced store: how many chats go before each open stretch,
    starts timestamptz[];    -- and when it begins
    last_slot timestamptz;
begin
    if step is not null then
        with stretches as (
            select lower(r) as opens, ceil(extract(epoch from upper(r) - lower(r)) / extract(epoch from step))::bigint as room
              from unnest(open_ranges(hold_anew.store_id, today, today + 3000)
                          * tstzmultirange(tstzrange(at, null))) r
        )
        select array_agg(before order by opens) || coalesce(sum(room), 0)::bigint, array_agg(opens order by opens) || timestamptz 'infinity'
          into befores, starts
          from (select opens, room, (sum(room) over (order by opens))::bigint - room as before from stretches) counted;
    end if;
    with held as materialized (
        select conversation_id, seq, client_id, due_at, row_number() over (order by due_at, seq) - 1 as place
          from chat_queue q
         where q.store_id = hold_anew.store_id and held_since is not null and q.due_at > at and not urgent and not paused
    ), slotted as (
        select h.*, case when step is null then opening
                         else starts[width_bucket(place, befores)]
                              + (place - befores[width_bucket(place, befores)]) * step end as slot
          from held h
    ), planned as materialized (
        select conversation_id, seq, due_at, slot,
               case when client_id is null then slot
                    else coalesce(release_at(hold_anew.store_id, client_id, slot), slot) end as new_due_at
          from slotted
    ), done as (
        update chat_queue q set due_at = p.new_due_at from planned p
         where not dry_run and p.new_due_at <> p.due_at and q.conversation_id = p.conversation_id and q.seq = p.seq
    )
    select count(*) filter (where new_due_at <> due_at),
           min(due_at) filter (where new_due_at <> due_at), max(due_at) filter (where new_due_at <> due_at),
           min(new_due_at) filter (where new_due_at <> due_at), max(new_due_at) filter (where new_due_at <> due_at),
           max(slot) filter (where slot < 'infinity')
      into moved, from_first, from_last, to_first, to_last, last_slot
      from planned;
    if not dry_run then
        update store_paces p set next_at = coalesce(last_slot + step, '-infinity') where p.store_id = hold_anew.store_id;
        perform pg_notify('chat_queued', '');
    end if;
end $$;

-- Changed hours make the looked-up period worthless at once …
create function forget_opening_period() returns trigger
language plpgsql as $$
declare
    changed record := case when tg_op = 'DELETE' then old else new end;
begin
    if tg_table_name = 'stores' then
        new.closed_since := '-infinity'; new.opens_at := '-infinity'; new.closes_at := '-infinity';
        return new;
    end if;
    update stores set (closed_since, opens_at, closes_at) = row ('-infinity', '-infinity', '-infinity')
     where store_id = changed.store_id;
    return null;
end $$;
create trigger stores_timezone_changed before update of timezone, paused_at on stores
    for each row execute function forget_opening_period();
create trigger store_hours_changed after insert or update or delete on store_hours
    for each row execute function forget_opening_period();
create trigger store_exceptions_changed after insert or update or delete on store_exceptions
    for each row execute function forget_opening_period();
create trigger store_exception_spans_changed after insert or update or delete on store_exception_spans
    for each row execute function forget_opening_period();

-- … and what is held moves before the change is committed, once, however many rows it had: whoever comes first
-- looks the period up.
create function hours_changed() returns trigger
language plpgsql as $$
declare
    at timestamptz := shoptalk_now();
begin
    if exists (select from stores where store_id = new.store_id and closes_at = '-infinity') then
        perform pg_advisory_xact_lock(hours_lock(), new.store_id & 63);
        perform look_up_opening_period(new.store_id, at);
        perform hold_anew(new.store_id, at);
    end if;
    return null;
end $$;
create constraint trigger stores_hours_changed after update on stores deferrable initially deferred
    for each row when (new.closes_at = '-infinity') execute function hours_changed();

-- The schedule's step: rings for the workers, whose claim releases and takes back what is due, and says how many
-- seconds it is until the next opening or closing. Harmless when missed, doubled or late. Looks each store up
-- anew once a day, and moves what it holds where the answer has become another: the rules of zones change too. Answers 0
-- where it has moved something: there may be more.
create function keep_hours() returns double precision
language plpgsql volatile set enable_seqscan = off as $$
declare
    at timestamptz;
    store stores;
    moved boolean := false;
begin
    perform pg_advisory_xact_lock(sender_lock());
    at := shoptalk_now();
    perform refresh_opening_periods(at);
    for store in
        select * from stores where looked_up_at < at - interval '1 day'
           and pg_try_advisory_xact_lock(hours_lock(), store_id & 63)
         limit 100 for update skip locked
    loop
        perform look_up_opening_period(store.store_id, at);
        if at >= store.closed_since and at < store.closes_at
           and exists (select from stores s where s.store_id = store.store_id and s.opens_at <> store.opens_at) then
            perform hold_anew(store.store_id, at);
            moved := true;
            exit;  -- one store a transaction, since nothing is sent meanwhile
        end if;
    end loop;
    perform pg_notify('chat_queued', '');
    return case when moved then 0 else extract(epoch from least(
        (select min(opens_at) from stores where opens_at > at),
        (select min(closes_at) from stores where closes_at > at),
        at + interval '1 day') - at) end;
end $$;


-- Whether an error says nothing about the chat at hand (no disk, a lost lock, a shutdown, a missing
-- right): then nothing is decided about it, and whoever asked comes again. By SQLSTATE class, chapter 58 of the
-- PostgreSQL manual's appendix A.
create function is_trouble_of_the_server(state text) returns boolean language sql immutable as $$
    select left(state, 2) in ('08', '0A', '25', '40', '42', '53', '54', '55', '57', '58', 'F0', 'XX')
$$;


-- Accepting: enqueue_chat() ---------------------------------------------------------------------------

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
    release_at timestamptz,
    replayed boolean
);

-- The payload with {{ username }} and {{ operator }} filled in, in one pass: a name that itself reads
-- "{{ operator }}" stays as it is. Split at one placeholder, fill the other in each piece, join.
create function fill_placeholders(template text, username text, operator_name text) returns text
language sql immutable as $$
    select string_agg(
               regexp_replace(piece, '\{\{\s*operator\s*\}\}', replace(operator_name, '\', '\\'), 'g'),
               username order by place)
      from regexp_split_to_table(template, '\{\{\s*username\s*\}\}') with ordinality as t(piece, place)
$$;

-- The answer that the chat had when it was first accepted; all null when there is no such chat.
-- Raises ST409 when the one asked for differs from it.
create function replay_chat(
    conversation_id integer, client_id integer, operator_id integer,
    payload text, sender text, chat_id bigint) returns enqueued_chat
language plpgsql stable as $$
declare
    c chats;
begin
    select * into c from chats where chats.chat_id = replay_chat.chat_id;
    if not found then
        return null;
    end if;
    if (c.conversation_id, c.client_id, c.operator_id, coalesce(c.template, c.payload), c.sender)
       is distinct from
       (coalesce(conversation_id, c.conversation_id), client_id, operator_id, payload, sender) then
        raise 'chat % was accepted with other content', chat_id
            using errcode = 'ST409', column = 'chat_id';
    end if;
    return (c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id, c.operator_id,
            c.created_at, case when c.release_at is null then 'queued' else 'held' end,
            nullif(c.release_at, 'infinity'), true);
end $$;

-- Raises what is wrong with a pair of parties that a conversation cannot take: ST404 for one that does
-- not exist, ST409 where both do but the conversation is between others.
create function refuse_parties(conversation_id integer, client_id integer, operator_id integer)
returns void language plpgsql stable as $$
begin
    if not exists (select from clients c where c.client_id = refuse_parties.client_id) then
        raise 'there is no client %', client_id using errcode = 'ST404', column = 'client_id';
    end if;
    if not exists (select from operators o where o.operator_id = refuse_parties.operator_id) then
        raise 'there is no operator %', operator_id using errcode = 'ST404', column = 'operator_id';
    end if;
    if conversation_id is not null then
        raise 'conversation % is between another client and operator', conversation_id
            using errcode = 'ST409', column = 'conversation_id';
    end if;
end $$;

-- The conversation with its next seq taken and its row locked until the transaction ends; made if there
-- is none (under a drawn id if conversation_id is null). Raises ST404 and ST409 for its parties.
create function next_in_conversation(conversation_id integer, client_id integer, operator_id integer)
returns conversations language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_column
declare
    conversation conversations;
begin
    loop
        update conversations c set last_seq = last_seq + 1, last_chat_at = shoptalk_now()
         where c.conversation_id = next_in_conversation.conversation_id
        returning * into conversation;
        exit when found;
        -- Two first chats of one conversation: the second waits here for the first to commit, inserts
        -- nothing, and takes its number in the next turn.
        insert into conversations (conversation_id, client_id, operator_id, store_id, operator_group, last_seq)
        select coalesce(next_in_conversation.conversation_id, nextval('generated_conversation_ids')),
               c.client_id, o.operator_id, o.store_id, o.operator_group, 1
          from clients c, operators o
         where c.client_id = next_in_conversation.client_id
           and o.operator_id = next_in_conversation.operator_id
        on conflict do nothing
        returning * into conversation;
        exit when found;
        perform refuse_parties(null, next_in_conversation.client_id, next_in_conversation.operator_id);
    end loop;
    if (conversation.client_id, conversation.operator_id)
       is distinct from (next_in_conversation.client_id, next_in_conversation.operator_id) then
        perform refuse_parties(conversation.conversation_id,
                               next_in_conversation.client_id, next_in_conversation.operator_id);
    end if;
    return conversation;
end $$;

-- Makes an urgent chat, due at the instant `at`, the next of its conversation to go: those before it that wait
-- go with it, so that the order holds. Raises ST403 where the store does not let the sender.
create function hurry(conversation conversations, sender text, at timestamptz) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
    if not exists (select from stores s where s.store_id = conversation.store_id and sender = any (s.urgent_for)) then
        raise 'store % lets no % send urgent chats', conversation.store_id, sender
            using errcode = 'ST403', column = 'urgent';
    end if;
    update chat_queue q set due_at = case when q.paused then q.due_at else at end,
                            held_since = case when q.paused then q.held_since end, urgent = true
     where q.conversation_id = conversation.conversation_id
       -- What is hurried already stays as it is: a list of urgent chats would rewrite all before it with each.
       and not (q.urgent and (q.paused or q.held_since is null and q.due_at <= at));
end $$;

-- The away notice that is due in the conversation of a closed store: once a closed period, and when nothing of the
-- conversation waits, since it goes before the chat that it answers. Null: none.
create function away_notice(conversation conversations, at timestamptz) returns text
language plpgsql stable set enable_seqscan = off as $$
declare
    store stores;
    period record;
begin
    select * into store from stores s where s.store_id = conversation.store_id;
    if store.away_notice is null
       or exists (select from chat_queue q where q.conversation_id = conversation.conversation_id) then
        return null;
    end if;
    select * into period from opening_period(store.store_id, at);
    if at >= period.opens_at or period.opens_at = 'infinity' or conversation.away_notice_at >= period.closed_since then
        return null;
    end if;
    return regexp_replace(store.away_notice, '\{\{\s*opens_at\s*\}\}',
                          to_char(period.opens_at at time zone store.timezone, 'YYYY-MM-DD HH24:MI'), 'g');
end $$;

-- Writes the away notice under the seq that the conversation has drawn last, and draws the next one for the chat
-- that it answers. It goes at once.
create function give_away_notice(conversation conversations, notice text, at timestamptz) returns void
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    rendered text;
    new_id bigint;
begin
    select fill_placeholders(notice, c.username, o.operator_name) into rendered
      from clients c, operators o
     where c.client_id = conversation.client_id and o.operator_id = conversation.operator_id;
    update conversations c set last_seq = c.last_seq + 1, away_notice_at = at
     where c.conversation_id = conversation.conversation_id;
    loop
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id, created_at, template)
        values (nextval('generated_chat_ids'), conversation.conversation_id, conversation.last_seq, 'operator',
                rendered, conversation.client_id, conversation.operator_id, at, nullif(notice, rendered))
        on conflict on constraint chats_pkey do nothing
        returning chats.chat_id into new_id;
        exit when found;
    end loop;
    insert into chat_queue (due_at, chat_id, conversation_id, seq, store_id, urgent)
    values (at, new_id, conversation.conversation_id, conversation.last_seq, conversation.store_id, true);
end $$;

-- Accepts one chat in the caller's transaction; the very function that REST uses. conversation_id null:
-- a new conversation; chat_id null: a new id. The same chat_id with the same content again answers what
-- the first call answered and adds nothing. An urgent one goes at any hour.
--
-- Raises ST404 (unknown client or operator), ST409 (the chat_id has other content, the conversation other
-- parties) and ST403 (urgent, which the store does not allow), with the field in COLUMN; 23514 for values out of
-- range.
create function enqueue_chat(
    conversation_id integer, client_id integer, operator_id integer, payload text,
    sender text default 'client', chat_id bigint default null, urgent boolean default false) returns enqueued_chat
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    replay enqueued_chat;
    conversation conversations;
    rendered text := payload;
    at timestamptz;
    held_until timestamptz;
    due_at timestamptz;
    night_of integer;         -- the client whose quiet hours it waits for
    notice text;
    new_seq integer;
    new_id bigint;
begin
    if chat_id is not null then
        replay := replay_chat(conversation_id, client_id, operator_id, payload, sender, chat_id);
        if replay.replayed then
            return replay;
        end if;
    end if;
    conversation := next_in_conversation(conversation_id, client_id, operator_id);
    new_seq := conversation.last_seq;
    -- After the conversation's lock: its chats' instants then follow their seq as long as the clock does.
    at := shoptalk_now();
    if sender = 'operator' then
        select q.client_id into night_of from quiet_hours q where q.client_id = enqueue_chat.client_id;
    end if;
    due_at := at;
    if urgent then
        perform hurry(conversation, sender, at);
    end if;
    if conversation.paused_at is not null then
        held_until := 'infinity';
        due_at := held_until;
    elsif urgent then
        null;
    elsif night_of is not null or release_at(conversation.store_id, at) is not null then
        select h.held_until, h.due_at into held_until, due_at from hold_until(conversation.store_id, night_of, at) h;
        if held_until is not null and sender = 'client' then
            notice := away_notice(conversation, at);
            new_seq := new_seq + (notice is not null)::integer;
        end if;
    end if;
    if payload like '%{{%' then
        select fill_placeholders(payload, c.username, o.operator_name) into rendered
          from clients c, operators o
         where c.client_id = conversation.client_id and o.operator_id = conversation.operator_id;
    end if;
    loop
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id,
                           created_at, template, release_at)
        values (coalesce(chat_id, nextval('generated_chat_ids')), conversation.conversation_id,
                new_seq, sender, rendered, client_id, operator_id,
                at, nullif(payload, rendered), held_until)
        on conflict on constraint chats_pkey do nothing
        returning chats.chat_id into new_id;
        exit when found;
        if chat_id is not null then
            -- The same request twice at once: the other one was first. Give the number back.
            if conversation.last_seq = 1 then
                delete from conversations c where c.conversation_id = conversation.conversation_id;
            else
                update conversations c set last_seq = last_seq - 1
                 where c.conversation_id = conversation.conversation_id;
            end if;
            return replay_chat(conversation_id, client_id, operator_id, payload, sender, chat_id);
        end if;
    end loop;
    if notice is not null then
        perform give_away_notice(conversation, notice, at);
    end if;
    insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id, client_id, urgent, paused)
    values (due_at, case when held_until is not null then at end,
            new_id, conversation.conversation_id, new_seq, conversation.store_id, night_of, coalesce(urgent, false),
            conversation.paused_at is not null);
    return (new_id, conversation.conversation_id, new_seq, sender, rendered,
            client_id, operator_id, at,
            case when held_until is null then 'queued' else 'held' end, nullif(held_until, 'infinity'), false);
end $$;

create type enqueued_item as (
    place bigint,             -- in the list, from 1
    chat enqueued_chat,       -- null where it was refused
    error_state text,         -- and then why: the SQLSTATE, the field and the text of enqueue_chat()'s error
    error_field text,
    error_reason text
);

-- One chat of a list to accept.
create type chat_item as (
    conversation_id integer, client_id integer, operator_id integer,
    payload text, sender text, chat_id bigint, urgent boolean, place bigint
);

-- The conversations of the list whose chats can be accepted all at once: it is there, its parties are the
-- chats' own, and no chat needs a second look: a placeholder, an id that may be a replay, urgent, a client with
-- quiet hours, a paused conversation, and of the stores that are closed those that keep a pace, give notices or whose hours are being changed.
create function plain_conversations(items chat_item[], at timestamptz) returns integer[]
language sql volatile set enable_seqscan = off as $$
    with stores_named as materialized (
        select store_id, (s.store_id in (select p.store_id from store_paces p) or s.away_notice is not null
                          or not pg_try_advisory_xact_lock_shared(hours_lock(), s.store_id & 63))
                         and release_at(s.store_id, at) is not null as is_special
          from stores s
         where s.store_id in (select c.store_id from unnest(items) i join conversations c using (conversation_id))
    )
    select array_agg(conversation_id)
      from (select i.conversation_id
              from unnest(items) i join conversations c using (conversation_id) join stores_named s using (store_id)
             group by i.conversation_id
            having bool_and(i.client_id = c.client_id and i.operator_id = c.operator_id and c.paused_at is null
                            and i.payload not like '%{{%' and not i.urgent and not s.is_special
                            and not exists (select from chats where chats.chat_id = i.chat_id)
                            and (i.sender <> 'operator' or not exists (
                                    select from quiet_hours q where q.client_id = i.client_id)))) plain
$$;

-- Accepts the chats of such conversations, whose rows the caller has locked, in one statement: five times
-- as fast as one by one. Raises 23505 where an id was taken in the meantime or stands twice in the list.
create function enqueue_plain(items chat_item[], plain integer[], at timestamptz) returns enqueued_item[]
language sql volatile set enable_seqscan = off as $$
    with numbered as materialized (
        select i.place, coalesce(i.chat_id, nextval('generated_chat_ids')) as chat_id, i.conversation_id,
               (c.last_seq + row_number() over (partition by c.conversation_id order by i.place))::integer as seq,
               i.sender, i.payload, i.client_id, i.operator_id, c.store_id
          from unnest(items) i join conversations c using (conversation_id)
         where c.conversation_id = any (plain)
    ), hours as materialized (
        select store_id, release_at(store_id, at) as held_until
          from (select distinct store_id from numbered) s
    ), held as materialized (
        select * from numbered join hours using (store_id)
    ), counted as (
        update conversations c set last_seq = n.last, last_chat_at = at
          from (select conversation_id, max(seq) as last from numbered group by conversation_id) n
         where c.conversation_id = n.conversation_id
    ), accepted as (
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id,
                           created_at, release_at)
        select chat_id, conversation_id, seq, sender, payload, client_id, operator_id, at, held_until from held
    ), queued as (
        insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)
        select coalesce(held_until, at), case when held_until is not null then at end,
               chat_id, conversation_id, seq, store_id
          from held
    )
    select array_agg((place,
                      (chat_id, conversation_id, seq, sender, payload, client_id, operator_id, at,
                       case when held_until is null then 'queued' else 'held' end,
                       nullif(held_until, 'infinity'), false
                      )::enqueued_chat,
                      null, null, null)::enqueued_item)
      from held
$$;

-- Accepts many chats, each by itself: one row each, with what was accepted or with the error that
-- enqueue_chat() raised for it. The arrays are parallel. Whole conversations go at once where they can,
-- the rest one by one. Two such calls take their locks in one order, by conversation: hence all at once
-- only where every conversation named is there already.
create function enqueue_chats(
    conversation_ids integer[], client_ids integer[], operator_ids integer[],
    payloads text[], senders text[], chat_ids bigint[], urgents boolean[] default null) returns setof enqueued_item
language plpgsql volatile as $$
declare
    items chat_item[];
    plain integer[];
    at timestamptz;
    done enqueued_item[];
    item record;
    answer enqueued_item;
begin
    select array_agg((i.conversation_id, i.client_id, i.operator_id, i.payload, i.sender, i.chat_id,
                      coalesce(urgents[i.place], false), i.place)::chat_item order by i.place) into items
      from unnest(conversation_ids, client_ids, operator_ids, payloads, senders, chat_ids) with ordinality
           as i(conversation_id, client_id, operator_id, payload, sender, chat_id, place);
    if (select count(*) from conversations c where c.conversation_id = any (conversation_ids))
       = (select count(distinct id) from unnest(conversation_ids) id) then
        perform from conversations c where c.conversation_id = any (conversation_ids)
          order by c.conversation_id for update;
        at := shoptalk_now();
        plain := plain_conversations(items, at);
        begin
            done := enqueue_plain(items, plain, at);
        exception when others then
            if is_trouble_of_the_server(sqlstate) then
                raise;
            end if;
            plain := null;  -- one of them is no plain chat after all: one by one, to find out which
        end;
    end if;
    return query select (d).* from unnest(done) d;
    for item in
        select * from unnest(items) i
         where plain is null or i.conversation_id is null or i.conversation_id <> all (plain)
         order by i.conversation_id, case when i.conversation_id is null then i.chat_id end, i.place
    loop
        answer := null;
        answer.place := item.place;
        begin
            answer.chat := enqueue_chat(item.conversation_id, item.client_id, item.operator_id,
                                        item.payload, item.sender, item.chat_id, item.urgent);
        exception when others then
            get stacked diagnostics answer.error_field = column_name, answer.error_reason = message_text;
            answer.error_state := sqlstate;
            if is_trouble_of_the_server(answer.error_state) then
                raise;
            end if;
        end;
        return next answer;
    end loop;
end $$;

-- The bell: NOTIFY chat_queued only when a worker sleeps, because a committing NOTIFY takes a lock of
-- the whole cluster until after its flush (a third of the single inserts remained when it always rang).
--
-- Getting the shared lock means that no worker sleeps, and none can fall asleep before this transaction
-- has ended: the worker takes the lock exclusively, looks once more, and only then waits. So no wake-up
-- is lost, and a worker that dies asleep takes its lock with it.
--
-- For each row, and not for each statement: its WHEN spares the held ones without a look into a transition
-- table, which cost each enqueue a tenth. A transaction's further rings fold into its first.
create function ring_for_sleepers() returns trigger
language plpgsql as $$
begin
    if not pg_try_advisory_xact_lock_shared(bell_lock()) then
        perform pg_notify('chat_queued', '');
    end if;
    return new;
end $$;
create trigger chat_queue_bell before insert on chat_queue
    for each row when (new.held_since is null) execute function ring_for_sleepers();


-- Sending: send_chats() -------------------------------------------------------------------------------

-- From where on the claim looks, in each lane. Held chats come due by the thousand at one instant, so there it is
-- the whole key: by (due_at, seq) alone each claim walked the thousands of dead rows of one seq.
create type queue_floor as (
    live_from timestamptz,
    held_from timestamptz,
    held_from_seq integer,
    held_from_conversation integer
);

create type send_report as (
    claimed integer,          -- pointers claimed
    sent integer,             -- of them, moved to the log
    failed integer,           -- of them, whose sending raised (retried later, or dead-lettered)
    -- From where the next claim may look; null when nothing of the lane was claimed. In the live lane that is the
    -- last due_at, but a second ago at most: what was enqueued since may not be committed yet. In the held lane it
    -- is the last (due_at, seq, conversation_id).
    live_until timestamptz,
    held_until timestamptz,
    held_until_seq integer,
    held_until_conversation integer,
    below_floor boolean,      -- a chat waits for an earlier one that is due below the floor
    live_sent integer,        -- of sent, those of the live lane
    live_waited interval,     -- how long the one of them that waited longest might have gone; null: none was sent
    held_waited interval,     -- the same of the held lane: since its store opened
    failures jsonb            -- [{chat_id, conversation_id, seq, attempts, dead, reason}]; null: none failed
);

-- Claims the next due pointers and moves those that may go to the log: the fast path, one statement.
--
-- What makes it safe. The caller holds the sender's lock, so position order is commit order and nobody
-- else claims. A pointer somebody has locked is skipped; therefore a chat goes only if its predecessor
-- goes with it or is in the log, or else if no earlier pointer of its conversation is left. The log is
-- asked first because it has no dead rows to walk over, however long somebody's snapshot is open. In the
-- log a chat goes no earlier than those before it: put_back() may have moved them behind it. The two
-- look-ups are scalar subqueries, which the planner never turns into a hash of the whole table.
--
-- Live chats go first, so that they do not wait behind what was held, and with only a fifth of a batch of it, so
-- that they are committed soon; but with that, so that the held do not wait for ever.
--
-- A pointer that somebody rewrote after this statement's snapshot, and let go of before its row was come to, is claimed as it
-- is by then, but could not be deleted. Raises ST002: the pointers have to be locked by a statement before.
--
-- chosen: the pointers to claim, locked by the caller; null: whichever are due.
-- waiting_*: conversation_id and seq of what was claimed and may not go; null when all may.
create function send_claimed(
    batch_size integer, floor queue_floor, at timestamptz, chosen tid[],
    out claimed integer, out sent integer,
    out live_until timestamptz,
    out held_until timestamptz, out held_until_seq integer, out held_until_conversation integer,
    out waiting_conversations integer[], out waiting_seqs integer[],
    out live_sent integer, out live_waited interval, out held_waited interval)
language plpgsql volatile as $$
declare
    live_from timestamptz := floor.live_from;
    held_from timestamptz := floor.held_from;
    held_from_seq integer := floor.held_from_seq;
    held_from_conversation integer := floor.held_from_conversation;
    gone integer;
begin
    with live as materialized (
        select q.ctid as pointer, q.*
          from chat_queue q
         where q.held_since is null and q.due_at >= live_from and q.due_at <= at and chosen is null
         order by q.due_at, q.seq
         limit batch_size
           for update skip locked
    ), held as materialized (
        select q.ctid as pointer, q.*
          from chat_queue q
         where q.held_since is not null and q.due_at <= at and chosen is null
           and (q.due_at, q.seq, q.conversation_id) >= (held_from, held_from_seq, held_from_conversation)
         order by q.due_at, q.seq, q.conversation_id
         limit case when exists (select from live) then greatest(batch_size / 5, 1) else batch_size end
           for update skip locked
    ), claimed as (
        select * from live
        union all
        select * from held
        union all
        select q.ctid, q.* from chat_queue q where q.ctid = any (chosen)
    ), neighbours as (
        select c.*, coalesce(lag(c.seq) over (partition by c.conversation_id order by c.seq), 0) as before
          from claimed c
    ), judged as materialized (
        select n.*, max(n.due_at) over earlier as goes_at, bool_and(
                   (select s.paused_at is null and (n.urgent or at >= s.opens_at and at < s.closes_at)
                      from stores s where s.store_id = n.store_id)
                   and (n.client_id is null or n.urgent or not is_quiet(n.client_id, at))
                   and (n.before = n.seq - 1
                        or coalesce((select true from sent_log l
                                      where l.conversation_id = n.conversation_id and l.seq = n.seq - 1 limit 1),
                                    (select false from chat_queue p
                                      where p.conversation_id = n.conversation_id
                                        and p.seq > n.before and p.seq < n.seq limit 1),
                                    true))
               ) over earlier as may_go
          from neighbours n
        window earlier as (partition by n.conversation_id order by n.seq)
    ), acked as (
        delete from chat_queue q using judged j where j.may_go and q.ctid = j.pointer
        returning 1
    ), logged as (
        insert into sent_log (position, chat_id, conversation_id, seq, sent_at)
        select coalesce((select max(position) from sent_log), 0) + row_number() over (order by goes_at, seq),
               chat_id, conversation_id, seq, at
          from judged where may_go
    ), last_held as (
        select due_at, seq, conversation_id
          from judged
         where held_since is not null
         order by due_at desc, seq desc, conversation_id desc
         limit 1
    )
    select count(*), count(*) filter (where may_go),
           max(least(due_at, at - interval '1 second')) filter (where held_since is null),
           (select due_at from last_held), (select seq from last_held), (select conversation_id from last_held),
           array_agg(conversation_id) filter (where not may_go), array_agg(seq) filter (where not may_go),
           count(*) filter (where may_go and held_since is null),
           at - min(due_at) filter (where may_go and held_since is null),
           at - min(due_at) filter (where may_go and held_since is not null),
           (select count(*) from acked)
      into claimed, sent, live_until, held_until, held_until_seq, held_until_conversation,
           waiting_conversations, waiting_seqs, live_sent, live_waited, held_waited, gone
      from judged;
    if gone <> sent then
        raise '% pointers were rewritten while they were claimed', sent - gone using errcode = 'ST002';
    end if;
end $$;

-- The client who writes is awake: what of the conversation waits only for the client's night goes before it now.
create function wake_client(conversation_ids integer[], seqs integer[], at timestamptz) returns void
language sql volatile as $$
    with awake as (
        select w.conversation_id, max(w.seq) as seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
          join chats c using (conversation_id, seq)
         where c.sender = 'client'
         group by w.conversation_id
    ), asleep as (
        select q.conversation_id, q.seq
          from awake a join chat_queue q on q.conversation_id = a.conversation_id and q.seq < a.seq
         where q.client_id is not null and not q.paused and release_at(q.store_id, at) is null
           for update of q skip locked
    )
    update chat_queue q set client_id = null, due_at = least(q.due_at, at) from asleep s
     where q.conversation_id = s.conversation_id and q.seq = s.seq
$$;

-- Spreads what was put back to an opening at its store's pace. Waits for nobody: where somebody has the pace, the
-- pointers come again in a second.
create function pace_put_back(conversation_ids integer[], seqs integer[], at timestamptz) returns void
language plpgsql volatile as $$
declare
    pointer record;
begin
    for pointer in
        select q.conversation_id, q.seq, q.store_id, q.due_at,
               (select true from store_paces p where p.store_id = q.store_id for update skip locked) as is_free
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.seq
         where q.due_at = (select s.opens_at from stores s where s.store_id = q.store_id)
           and q.store_id in (select p.store_id from store_paces p) and not q.urgent and q.due_at > at
         order by q.conversation_id, q.seq
    loop
        update chat_queue q
           set due_at = case when pointer.is_free then take_slot(pointer.store_id, pointer.due_at)
                             else at + interval '1 second' end
         where q.conversation_id = pointer.conversation_id and q.seq = pointer.seq;
    end loop;
end $$;

-- Gives claimed pointers that may not go the instant from which they may: when the store is closed or the client
-- asleep, the end of that, at the store's pace (the chat is held, or taken back); otherwise the instant and the
-- lane of the earlier chat they wait for. Followers of a pointer that somebody keeps locked look again in a
-- second and then seldomer, lest a batch of them stand in front of all others for ever, or be rewritten for ever;
-- and so do the chats of a store whose hours somebody is changing, whose opening period could not be looked up
-- because its row is locked, or whose pace somebody has. Returns whether the one waited for is due below the floor:
-- then nothing is moved, and the next claim must start from the very beginning.
create function put_back(
    conversation_ids integer[], seqs integer[], floor queue_floor, at timestamptz) returns boolean
language plpgsql volatile as $$
declare
    changing integer[];
    below_floor boolean;
begin
    -- As hold_until() does it, and in a statement of its own, so that the next one sees what was changed before: whoever
    -- changes a store's hours from now on waits for this transaction, and moves what is put back here; what somebody is
    -- changing already comes again.
    changing := array(
        select s.store_id
          from (select distinct q.store_id
                  from unnest(conversation_ids, seqs) as w(conversation_id, seq)
                  join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.seq offset 0) s
         where not pg_try_advisory_xact_lock_shared(hours_lock(), s.store_id & 63));
    -- Asked of the conversations and not of all that waits before each: of a long backlog that was quadratic.
    if exists (select from conversations v join quiet_hours h using (client_id)
                where v.conversation_id = any (conversation_ids)) then
        perform wake_client(conversation_ids, seqs, at);
    end if;
    with waiting as (
        select conversation_id, min(seq) as first_seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
         group by conversation_id
    ), firsts as materialized (
        select w.conversation_id, b.due_at, b.held_since,
               q.store_id = any (changing)
               or not q.urgent and s.paused_at is null and (at >= s.closes_at or at < s.closed_since) as unknown,
               case when s.paused_at is not null then timestamptz 'infinity'
                    when not q.urgent and at < s.closes_at and at >= s.closed_since
                    then release_at(q.store_id, q.client_id, at) end as opening,
               case when b.held_since is null then b.due_at < floor.live_from
                    else (b.due_at, b.seq, w.conversation_id)
                         < (floor.held_from, floor.held_from_seq, floor.held_from_conversation) end as is_below
          from waiting w
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.first_seq
          join stores s on s.store_id = q.store_id
          left join lateral (select p.due_at, p.held_since, p.seq
                               from chat_queue p
                              where p.conversation_id = w.conversation_id and p.seq < w.first_seq
                              order by p.seq limit 1) b on true
    ), judged as materialized (
        select *, not unknown and opening is null and coalesce(is_below, false) as waits_below from firsts
    ), places as materialized (
        -- By itself: with judged's conversation_id in reach, a plan walks the conversation's backlog for each of it.
        select w.conversation_id, w.seq, j.due_at, j.held_since, j.unknown, j.opening
          from unnest(conversation_ids, seqs) as w(conversation_id, seq) join judged j using (conversation_id)
         where not j.waits_below
    ), moved as (
        update chat_queue q
           set due_at = case when p.unknown then at + interval '1 second'
                             when p.opening is not null then p.opening
                             when p.due_at > at or (p.held_since is null) <> (q.held_since is null) then p.due_at
                             else at + greatest('1 second', least('30 seconds', (at - p.due_at) / 4)) end,
               held_since = case when p.unknown then q.held_since
                                 when p.opening is not null then coalesce(q.held_since, at)
                                 when p.held_since is not null then coalesce(q.held_since, at) end
          from places p
         where q.conversation_id = p.conversation_id and q.seq = p.seq
    )
    select coalesce(bool_or(waits_below), false) into below_floor from judged;
    if exists (select from store_paces) then
        perform pace_put_back(conversation_ids, seqs, at);
    end if;
    return below_floor;
end $$;

create function send_batch(batch_size integer, floor queue_floor, at timestamptz, chosen tid[])
returns send_report
language plpgsql volatile as $$
declare
    claim record;
    report send_report;
begin
    select * into claim from send_claimed(batch_size, floor, at, chosen);
    report := (claim.claimed, claim.sent, 0, claim.live_until,
               claim.held_until, claim.held_until_seq, claim.held_until_conversation, false,
               claim.live_sent, claim.live_waited, claim.held_waited, null);
    if claim.waiting_seqs is not null then
        report.below_floor := put_back(claim.waiting_conversations, claim.waiting_seqs, floor, at);
    end if;
    return report;
end $$;

-- Backoff: 1, 2, 4, 8 seconds; the fifth failure makes a dead letter. Only this chat's conversation
-- waits, because put_back() gives its followers this pointer's instant. Returns it for the report.
create function record_failure(pointer chat_queue, reason text, at timestamptz) returns jsonb
language plpgsql volatile as $$
declare
    failure chat_failures;
begin
    insert into chat_failures as f (chat_id, attempts, reason, last_attempt_at)
    values (pointer.chat_id, 1, record_failure.reason, at)
    on conflict (chat_id) do update
        set attempts = f.attempts + 1, reason = excluded.reason, last_attempt_at = excluded.last_attempt_at
    returning * into failure;
    if failure.attempts < 5 then
        update chat_queue q set due_at = at + interval '1 second' * 2 ^ (failure.attempts - 1), held_since = null
         where q.conversation_id = pointer.conversation_id and q.seq = pointer.seq;
    else
        update chat_failures f set dead_at = at where f.chat_id = pointer.chat_id;
        delete from chat_queue q where q.conversation_id = pointer.conversation_id and q.seq = pointer.seq;
    end if;
    return jsonb_build_array(jsonb_build_object(
        'chat_id', pointer.chat_id, 'conversation_id', pointer.conversation_id, 'seq', pointer.seq,
        'attempts', failure.attempts, 'dead', failure.attempts >= 5, 'reason', reason));
end $$;

-- The pointers that send_claimed() would claim, in its order, locked.
create function due_pointers(batch_size integer, floor queue_floor, at timestamptz) returns tid[]
language plpgsql volatile as $$
declare
    live tid[];
    held tid[];
begin
    live := array(
        select q.ctid from chat_queue q
         where q.held_since is null and q.due_at >= floor.live_from and q.due_at <= at
         order by q.due_at, q.seq
         limit batch_size
           for update skip locked);
    held := array(
        select q.ctid from chat_queue q
         where q.held_since is not null and q.due_at <= at
           and (q.due_at, q.seq, q.conversation_id)
               >= (floor.held_from, floor.held_from_seq, floor.held_from_conversation)
         order by q.due_at, q.seq, q.conversation_id
         limit case when cardinality(live) > 0 then greatest(batch_size / 5, 1) else batch_size end
           for update skip locked);
    return live || held;
end $$;

-- What two batches did together; `later` is the later one in the queue's order.
create function add_reports(earlier send_report, later send_report) returns send_report
language sql immutable as $$
    select earlier.claimed + later.claimed, earlier.sent + later.sent, earlier.failed + later.failed,
           greatest(earlier.live_until, later.live_until),
           coalesce(later.held_until, earlier.held_until),
           case when later.held_until is null then earlier.held_until_seq else later.held_until_seq end,
           case when later.held_until is null then earlier.held_until_conversation
                else later.held_until_conversation end,
           earlier.below_floor or later.below_floor, earlier.live_sent + later.live_sent,
           greatest(earlier.live_waited, later.live_waited), greatest(earlier.held_waited, later.held_waited),
           coalesce(earlier.failures || later.failures, earlier.failures, later.failures)
$$;

-- A batch; and where it raises, its halves, down to the culprits, so that the rest goes. Each attempt is a
-- subtransaction of its own. What has failed before goes by itself, ahead of its followers: so four of a dead letter's
-- five attempts cost one subtransaction each, and not one for each time that the batch is halved.
--
-- What is halved is the list of pointers, and not the number to claim: a held chat that cannot be sent would come
-- along with each half of the live ones, and make all of them go one by one.
create function send_carefully(batch_size integer, floor queue_floor, at timestamptz, chosen tid[] default null)
returns send_report
language plpgsql volatile as $$
declare
    pointers tid[];
    suspects tid[];
    suspect tid;
    half integer;
    culprit chat_queue;
    reason text;
    report send_report;
begin
    begin
        return send_batch(batch_size, floor, at, chosen);
    exception when others then
        if is_trouble_of_the_server(sqlstate) then
            raise;
        end if;
        reason := sqlstate || ': ' || sqlerrm;
    end;
    if cardinality(chosen) = 1 then
        select * into culprit from chat_queue q where q.ctid = chosen[1];
        return (1, 0, 1, null::timestamptz, null::timestamptz, null::integer, null::integer, false,
                0, null::interval, null::interval, record_failure(culprit, reason, at));
    end if;
    pointers := coalesce(chosen, due_pointers(batch_size, floor, at));
    if chosen is null and reason like 'ST002:%' then
        return send_carefully(batch_size, floor, at, pointers);
    end if;
    suspects := array(
        select p.pointer
          from unnest(pointers) with ordinality as p(pointer, place)
          join chat_queue q on q.ctid = p.pointer join chat_failures f using (chat_id)
         where chosen is null
         order by p.place);
    if cardinality(suspects) > 0 then
        report := (0, 0, 0, null, null, null, null, false, 0, null, null, null);
        foreach suspect in array suspects loop
            report := add_reports(report, send_carefully(batch_size, floor, at, array[suspect]));
        end loop;
        return add_reports(report, send_carefully(
            batch_size, floor, at, array(select p from unnest(pointers) p where p <> all (suspects))));
    end if;
    half := cardinality(pointers) / 2;
    return add_reports(send_carefully(batch_size, floor, at, pointers[:half]),
                       send_carefully(batch_size, floor, at, pointers[half + 1:]));
end $$;

-- Sends the next due chats, about batch_size of them, in one short transaction: claim, write to the
-- log, delete the pointers, ring. Run it from as many workers as you like: one at a time gets the lock,
-- and the others are answered null and stand by. (Waiting for the lock in turn, they handed it over after
-- every batch, which was slower than one worker alone.) The floor spares the claim the dead rows in front;
-- a chat due before it waits until somebody asks from '-infinity'.
--
-- The settings pin the plan to index scans, whatever the statistics say: a plan made for an empty table
-- stands still on a full one until the next ANALYZE. And they keep it: planning anew took a tenth of a batch.
create function send_chats(
    batch_size integer default 500, live_from timestamptz default '-infinity',
    held_from timestamptz default '-infinity', held_from_seq integer default 0, held_from_conversation integer default 0)
returns send_report
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    at timestamptz;
    report send_report;
begin
    if not pg_try_advisory_xact_lock(sender_lock()) then
        return null;
    end if;
    at := shoptalk_now();
    if exists (select from stores where closes_at <= at) or exists (select from stores where closed_since > at) then
        perform refresh_opening_periods(at);
    end if;
    report := send_carefully(batch_size, (live_from, held_from, held_from_seq, held_from_conversation), at);
    if report.sent > 0 then
        perform pg_notify('chat_sent', '');
    end if;
    return report;
end $$;


-- Mending: cancel_chat(), requeue_chat() ----------------------------------------------------------------

-- Takes a chat back that has not been sent: queued, held or failed. Cancelling twice is no error.
-- Raises ST404 for a chat that does not exist, ST409 for one that is sent.
create function cancel_chat(chat_id bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    chat chats;
    state text;
begin
    select * into chat from chats c where c.chat_id = cancel_chat.chat_id;
    if not found then
        raise 'there is no chat %', cancel_chat.chat_id using errcode = 'ST404', column = 'chat_id';
    end if;
    loop
        -- Waits for a sender that has the pointer claimed, and then finds it gone.
        delete from chat_queue q where q.conversation_id = chat.conversation_id and q.seq = chat.seq;
        if not found then
            delete from chat_failures f where f.chat_id = chat.chat_id and f.dead_at is not null;
        end if;
        if found then
            insert into cancelled_chats values (chat.chat_id, shoptalk_now()) on conflict do nothing;
            return;
        end if;
        select s.state into state from chat_states s where s.chat_id = chat.chat_id;
        exit when state = 'cancelled';
        if state = 'sent' then
            raise 'chat % is sent and cannot be cancelled', chat.chat_id
                using errcode = 'ST409', column = 'chat_id';
        end if;
        -- It changed its state between the two looks (requeued, dead-lettered): look again.
    end loop;
end $$;

-- Replaces the text of a chat that still waits. Raises ST404 for a chat that does not exist, ST409 for one that
-- does not wait any more.
create function edit_chat(chat_id bigint, payload text) returns void
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    chat chats;
    rendered text;
begin
    select * into chat from chats c where c.chat_id = edit_chat.chat_id;
    if not found then
        raise 'there is no chat %', chat_id using errcode = 'ST404', column = 'chat_id';
    end if;
    -- Waits for a sender that has the pointer claimed, and then finds it gone; one that comes later passes it over.
    perform from chat_queue q where q.conversation_id = chat.conversation_id and q.seq = chat.seq for update;
    if not found then
        raise 'chat % does not wait any more and cannot be edited', chat_id
            using errcode = 'ST409', column = 'chat_id';
    end if;
    select fill_placeholders(payload, c.username, o.operator_name) into rendered
      from clients c, operators o
     where c.client_id = chat.client_id and o.operator_id = chat.operator_id;
    update chats c set payload = rendered, template = nullif(edit_chat.payload, rendered)
     where c.chat_id = edit_chat.chat_id;
end $$;

-- Gives a dead letter its attempts again. It goes as soon as its store is open, after whatever of its
-- conversation went meanwhile. Raises ST404 for a chat that does not exist, ST409 for one not failed.
create function requeue_chat(chat_id bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    chat chats;
    conversation conversations;
    night_of integer;
    at timestamptz := shoptalk_now();
begin
    select c.* into chat from chats c where c.chat_id = requeue_chat.chat_id;
    if not found then
        raise 'there is no chat %', requeue_chat.chat_id using errcode = 'ST404', column = 'chat_id';
    end if;
    delete from chat_failures f where f.chat_id = chat.chat_id and f.dead_at is not null;
    if not found then
        raise 'chat % is not failed', chat.chat_id using errcode = 'ST409', column = 'chat_id';
    end if;
    -- Locked, so that pause_conversation() either is seen here or finds the pointer.
    select c.* into conversation from conversations c where c.conversation_id = chat.conversation_id for share;
    select q.client_id into night_of from quiet_hours q where q.client_id = chat.client_id and chat.sender = 'operator';
    if conversation.paused_at is not null then
        insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id, client_id, paused)
        values ('infinity', at, chat.chat_id, chat.conversation_id, chat.seq, conversation.store_id, night_of, true);
        return;
    end if;
    insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id, client_id)
    select h.due_at, case when h.held_until is not null then at end,
           chat.chat_id, chat.conversation_id, chat.seq, conversation.store_id, night_of
      from hold_until(conversation.store_id, night_of, at) h;
end $$;

-- Requeues every dead letter there is, of the store or (null) of all of them; answers how many.
create function requeue_failed(store_id integer default null) returns bigint
language sql volatile as $$
    with failed as materialized (
        select f.chat_id from chat_failures f join chats c using (chat_id) join conversations v using (conversation_id)
         where f.dead_at is not null and (requeue_failed.store_id is null or v.store_id = requeue_failed.store_id)
         order by c.conversation_id, c.seq
           for update of f
    )
    select count(*) from (select requeue_chat(chat_id) from failed) requeued
$$;


-- Stopping and hurrying, for people: pause, resume, release ---------------------------------------------------

-- All raise ST404 for what does not exist. None costs the claim anything: a paused store is one that never opens, and the
-- pointers of a paused conversation are never due.

-- Nothing of the store is sent until resume_store(), urgent chats neither; what it accepts is held. Waits for a batch
-- that is being sent. Answers how many of its chats wait. Pausing twice is no error.
create function pause_store(store_id integer) returns bigint
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    at timestamptz;
begin
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    update stores s set paused_at = at where s.store_id = store_id and s.paused_at is null;
    if found then
        perform look_up_opening_period(store_id, at);
        perform hold_anew(store_id, at);
        -- Last, so that sending stands still only for a moment: a batch in hand ends, and none begins before this is committed.
        perform pg_advisory_xact_lock(sender_lock());
    elsif not exists (select from stores s where s.store_id = store_id) then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    return (select count(*) from chat_queue q where q.store_id = store_id);
end $$;

-- The store sends again, in order: at once if it is open, else from its next opening. Answers how many chats waited.
create function resume_store(store_id integer) returns bigint
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    at timestamptz;
begin
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    update stores s set paused_at = null where s.store_id = store_id and s.paused_at is not null;
    if found then
        perform look_up_opening_period(store_id, at);
        update chat_queue q set due_at = at
         where q.store_id = store_id and q.urgent and q.due_at = 'infinity' and not q.paused;
        perform hold_anew(store_id, at);
    elsif not exists (select from stores s where s.store_id = store_id) then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    return (select count(*) from chat_queue q where q.store_id = store_id);
end $$;

-- The conversation, its row locked, so that nobody accepts a chat in it meanwhile, and the hours of its store too.
create function lock_conversation(conversation_id integer) returns conversations
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    conversation conversations;
begin
    perform pg_advisory_xact_lock(hours_lock(), c.store_id & 63) from conversations c where c.conversation_id = conversation_id;
    select * into conversation from conversations c where c.conversation_id = conversation_id for no key update;
    if not found then
        raise 'there is no conversation %', conversation_id using errcode = 'ST404', column = 'conversation_id';
    end if;
    return conversation;
end $$;

-- Nothing of the conversation is sent until resume_conversation(). Waits for a sender that has its pointers in hand.
-- Answers how many of its chats wait.
create function pause_conversation(conversation_id integer) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
begin
    if conversation.paused_at is null then
        update conversations c set paused_at = at where c.conversation_id = conversation_id;
        update chat_queue q set paused = true, due_at = 'infinity', held_since = coalesce(q.held_since, at)
         where q.conversation_id = conversation_id;
    end if;
    return (select count(*) from chat_queue q where q.conversation_id = conversation_id);
end $$;

-- The conversation goes on, in order: all of it is due now, and the claim puts back what its store or its client's
-- night lets not go yet. Answers how many chats waited.
create function resume_conversation(conversation_id integer) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
begin
    if conversation.paused_at is not null then
        update conversations c set paused_at = null where c.conversation_id = conversation_id;
        update chat_queue q set paused = false, due_at = at where q.conversation_id = conversation_id;
        perform pg_notify('chat_queued', '');
    end if;
    return (select count(*) from chat_queue q where q.conversation_id = conversation_id);
end $$;

-- Raises ST409 where the store or the conversation (either may be null) is paused: nothing of it can be released.
create function refuse_paused(store_id integer, conversation_id integer) returns void
language plpgsql stable as $$
#variable_conflict use_variable
begin
    if exists (select from stores s where s.store_id = store_id and s.paused_at is not null) then
        raise 'store % is paused: resume it first', store_id using errcode = 'ST409', column = 'store_id';
    end if;
    if exists (select from conversations c where c.conversation_id = conversation_id and c.paused_at is not null) then
        raise 'conversation % is paused: resume it first', conversation_id
            using errcode = 'ST409', column = 'conversation_id';
    end if;
end $$;

-- Sends all that the store holds now, whatever its hours and its clients' nights say; but what belongs to a paused
-- conversation. Live chats do not wait behind it. Answers how many chats that were. Raises ST409 where it is paused.
create function release_store(store_id integer) returns bigint
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    at timestamptz;
    released bigint;
begin
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    if not exists (select from stores s where s.store_id = store_id) then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    perform refuse_paused(store_id, null);
    update chat_queue q set due_at = at, urgent = true
     where q.store_id = store_id and q.held_since is not null and q.due_at > at and not q.paused;
    get diagnostics released = row_count;
    perform pg_notify('chat_queued', '');
    return released;
end $$;

-- The same for what a conversation holds, up to a chat of it (null: all of it).
create function release_conversation(conversation_id integer, upto_seq integer default null) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
    released bigint;
begin
    perform refuse_paused(conversation.store_id, conversation_id);
    update chat_queue q set due_at = at, urgent = true
     where q.conversation_id = conversation_id and q.seq <= coalesce(upto_seq, q.seq)
       and q.held_since is not null and q.due_at > at;
    get diagnostics released = row_count;
    perform pg_notify('chat_queued', '');
    return released;
end $$;

-- The same for one chat, and those of its conversation before it, so that the order holds. Raises ST409 where it is not held.
create function release_chat(chat_id bigint) returns bigint
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    chat chats;
    released bigint;
begin
    select * into chat from chats c where c.chat_id = chat_id;
    if not found then
        raise 'there is no chat %', chat_id using errcode = 'ST404', column = 'chat_id';
    end if;
    released := release_conversation(chat.conversation_id, chat.seq);
    if released = 0 then
        raise 'chat % is not held', chat_id using errcode = 'ST409', column = 'chat_id';
    end if;
    return released;
end $$;


-- Changing hours: change_hours() ------------------------------------------------------------------------

-- A store's hours as REST gives and takes them; members that are not set are left out.
create function hours_of(store_id integer) returns json
language sql stable as $$
    select json_strip_nulls(json_build_object(
        'timezone', s.timezone,
        'weekly', (select json_object_agg(d.name, d.spans order by d.weekday)
                     from (select w.weekday, w.name,
                                  coalesce(json_agg(json_build_array(to_char(h.opens, 'HH24:MI'), to_char(h.closes, 'HH24:MI'))
                                                    order by h.opens) filter (where h.opens is not null), '[]') as spans
                             from unnest(array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])
                                  with ordinality as w(name, weekday)
                             left join store_hours h on h.store_id = s.store_id and h.weekday = w.weekday
                            group by w.weekday, w.name) d),
        'exceptions', (select coalesce(json_agg(json_build_object(
                                  'date', case when not e.yearly then e.date end,
                                  'yearly', case when e.yearly then to_char(e.date, 'MM-DD') end,
                                  'name', e.name,
                                  'spans', (select coalesce(json_agg(json_build_array(
                                                       to_char(x.opens, 'HH24:MI'), to_char(x.closes, 'HH24:MI'))
                                                       order by x.opens), '[]')
                                              from store_exception_spans x
                                             where x.store_id = e.store_id and x.date = e.date and x.yearly = e.yearly))
                                  order by e.yearly, e.date), '[]')
                         from store_exceptions e where e.store_id = s.store_id),
        'pace_per_minute', (select p.per_minute from store_paces p where p.store_id = s.store_id),
        'away_notice', s.away_notice,
        'urgent', nullif(s.urgent_for, '{}')))
      from stores s where s.store_id = hours_of.store_id
$$;

-- Replaces the store's hours by such a document. Raises ST404 for a store that does not exist, 22023 for a zone that
-- is none.
create function write_hours(store_id integer, hours json) returns void
language plpgsql volatile as $$
#variable_conflict use_variable
begin
    update stores s
       set timezone = hours->>'timezone', away_notice = hours->>'away_notice',
           urgent_for = array(select json_array_elements_text(hours->'urgent') where json_typeof(hours->'urgent') = 'array')
     where s.store_id = write_hours.store_id;
    if not found then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    delete from store_hours h where h.store_id = write_hours.store_id;
    insert into store_hours (store_id, weekday, opens, closes)
    select write_hours.store_id, w.weekday, (s->>0)::time, (s->>1)::time
      from unnest(array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']) with ordinality as w(name, weekday),
           json_array_elements(hours->'weekly'->w.name) s;
    delete from store_exceptions e where e.store_id = write_hours.store_id;
    insert into store_exceptions (store_id, date, yearly, name)
    select write_hours.store_id, coalesce((e->>'date')::date, ('2000-' || (e->>'yearly'))::date),
           e->>'date' is null, e->>'name'
      from json_array_elements(hours->'exceptions') e;
    insert into store_exception_spans (store_id, date, yearly, opens, closes)
    select write_hours.store_id, coalesce((e->>'date')::date, ('2000-' || (e->>'yearly'))::date),
           e->>'date' is null, (s->>0)::time, (s->>1)::time
      from json_array_elements(hours->'exceptions') e, json_array_elements(e->'spans') s;
    if hours->>'pace_per_minute' is null then
        delete from store_paces p where p.store_id = write_hours.store_id;
    else
        insert into store_paces as p (store_id, per_minute)
        values (write_hours.store_id, (hours->>'pace_per_minute')::integer)
        on conflict on constraint store_paces_pkey do update set per_minute = excluded.per_minute;
    end if;
end $$;

create type hours_change as (
    hours json,               -- as they are, or would be
    moved integer,            -- chats that are or would be held until another instant;
    from_first timestamptz,   -- the first and the last such instant before
    from_last timestamptz,
    to_first timestamptz,     -- and after. Null: no opening is known
    to_last timestamptz
);

-- Replaces a store's hours and moves what it holds, in the caller's transaction. With dry_run the same is done
-- and undone, but for the writing of each pointer. Raises as write_hours() does.
create function change_hours(store_id integer, hours json, dry_run boolean default false) returns hours_change
language plpgsql volatile as $$
declare
    at timestamptz;
    held record;
    change hours_change;
begin
    -- Whoever holds a chat meanwhile is waited for here, or leaves it to the claim: see hold_until().
    perform pg_advisory_xact_lock(hours_lock(), change_hours.store_id & 63);
    at := shoptalk_now();
    begin
        perform write_hours(change_hours.store_id, change_hours.hours);
        perform look_up_opening_period(change_hours.store_id, at);
        select * into held from hold_anew(change_hours.store_id, at, dry_run);
        change := (hours_of(change_hours.store_id), held.moved,
                   nullif(held.from_first, 'infinity'), nullif(held.from_last, 'infinity'),
                   nullif(held.to_first, 'infinity'), nullif(held.to_last, 'infinity'));
        if dry_run then
            raise 'undo' using errcode = 'ST001';  -- not 'ST000', which would stand for all of ours
        end if;
    exception when sqlstate 'ST001' then
        null;
    end;
    return change;
end $$;

-- Closes the store on the days given as well, where it has no exception of its own, as change_hours() does.
create function close_on(store_id integer, days date[], names text[], dry_run boolean default false)
returns hours_change language plpgsql volatile as $$
declare
    hours jsonb;
begin
    perform pg_advisory_xact_lock(hours_lock(), close_on.store_id & 63);
    hours := hours_of(close_on.store_id)::jsonb;
    hours := jsonb_set(hours, '{exceptions}', hours->'exceptions' || (
        select coalesce(jsonb_agg(jsonb_build_object('date', d.day, 'name', left(d.name, 100), 'spans', '[]'::jsonb)), '[]')
          from unnest(days, names) as d(day, name)
         where not exists (select from store_exceptions e
                            where e.store_id = close_on.store_id and e.date = d.day and not e.yearly)));
    return change_hours(close_on.store_id, hours::json, dry_run);
end $$;

-- Why the store is open or closed at the instant `at`: by which span, of which day, and what is next.
create function explain_hours(store_id integer, at timestamptz) returns json
language plpgsql stable as $$
#variable_conflict use_column
declare
    zone text;
    paused timestamptz;
    today date;
    reason record;
    period record;
    next_opening timestamptz;
begin
    select s.timezone, s.paused_at into zone, paused from stores s where s.store_id = explain_hours.store_id;
    if not found then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    today := (at at time zone zone)::date;
    select * into period from opening_period(explain_hours.store_id, at);
    select d.*, o.opens, o.closes into reason
      from days_of(explain_hours.store_id, today - 2, today) d
      left join opening_spans(explain_hours.store_id, today - 2, today) o on o.day = d.day and o.span @> at
     where d.day = today or o.opens is not null
     order by o.opens is null, d.day limit 1;
    next_opening := period.opens_at;
    if at >= period.opens_at then
        next_opening := case when period.closes_at < 'infinity'
                             then (opening_period(explain_hours.store_id, period.closes_at)).opens_at end;
    end if;
    return json_build_object(
        'at', at, 'timezone', zone, 'local_time', to_char(at at time zone zone, 'YYYY-MM-DD"T"HH24:MI:SS'),
        'open', at >= period.opens_at, 'paused_at', paused,
        'by', json_build_object(
            'day', reason.day, 'weekday', lower(to_char(reason.day, 'dy')),
            'exception', case when reason.exception_date is not null then json_strip_nulls(json_build_object(
                'date', case when not reason.yearly then reason.exception_date end,
                'yearly', case when reason.yearly then to_char(reason.exception_date, 'MM-DD') end, 'name', reason.name)) end,
            'span', case when reason.opens is not null
                         then json_build_array(to_char(reason.opens, 'HH24:MI'), to_char(reason.closes, 'HH24:MI')) end),
        'next_opening', nullif(next_opening, 'infinity'),
        'next_closing', nullif(period.closes_at, 'infinity'));
end $$;

-- Sets a client's quiet hours, or none (timezone null), and moves what waits for the client. Raises ST404 for a
-- client that does not exist, 22023 for a zone that is none.
create function set_quiet_hours(client_id integer, timezone text, starts time, ends time) returns void
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    at timestamptz := shoptalk_now();
begin
    perform from clients c where c.client_id = set_quiet_hours.client_id for no key update;
    if not found then
        raise 'there is no client %', client_id using errcode = 'ST404', column = 'client_id';
    end if;
    -- Nobody changes the hours meanwhile: what waits is moved to an opening by the present ones.
    perform pg_advisory_xact_lock_shared(hours_lock(), slot)
       from (select distinct v.store_id & 63 as slot from conversations v
              where v.client_id = set_quiet_hours.client_id order by 1) s;
    delete from quiet_hours q where q.client_id = set_quiet_hours.client_id;
    if timezone is not null then
        insert into quiet_hours values (client_id, timezone, starts, ends);
    end if;
    update chat_queue q
       set client_id = case when timezone is not null then set_quiet_hours.client_id end,
           held_since = case when n.opening is not null then coalesce(q.held_since, at) else q.held_since end,
           due_at = case when q.paused then q.due_at
                         when n.opening is not null then n.opening
                         when q.held_since is not null then least(q.due_at, n.base) else q.due_at end
      from (select p.conversation_id, p.seq, base,
                   release_at(p.store_id, case when timezone is not null then set_quiet_hours.client_id end, base) as opening
              from conversations v
              join chat_queue p using (conversation_id)
              join chats c using (chat_id),
                   lateral (select case when p.store_id in (select store_id from store_paces)
                                        then greatest(p.due_at, at) else at end as base) b
             where v.client_id = set_quiet_hours.client_id and c.sender = 'operator' and not p.urgent) n
     where q.conversation_id = n.conversation_id and q.seq = n.seq;
    perform pg_notify('chat_queued', '');
end $$;


-- Reading -----------------------------------------------------------------------------------------------

-- Marks the conversation as read by the party up to the chat. Cumulative: an older mark changes nothing.
-- Answers the mark that stands, and whether it was moved. Raises ST404 for a conversation that does not
-- exist, 22003 for a chat that it has not.
create function mark_read(conversation_id integer, reader text, seq integer, out marked integer, out moved boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    last integer;
begin
    select c.last_seq into last from conversations c where c.conversation_id = mark_read.conversation_id;
    if not found then
        raise 'there is no conversation %', mark_read.conversation_id
            using errcode = 'ST404', column = 'conversation_id';
    end if;
    if mark_read.seq > last then
        raise 'conversation % has only % chats', mark_read.conversation_id, last
            using errcode = 'ST409', column = 'seq';
    end if;
    insert into read_marks as m (conversation_id, reader, seq)
    values (mark_read.conversation_id, mark_read.reader, mark_read.seq)
    on conflict (conversation_id, reader) do update set seq = excluded.seq where m.seq < excluded.seq
    returning m.seq into marked;
    moved := found;
    if not moved then
        select m.seq into marked from read_marks m
         where m.conversation_id = mark_read.conversation_id and m.reader = mark_read.reader;
    end if;
end $$;


-- Presence ----------------------------------------------------------------------------------------------

-- Who has a stream open in which web process. A process says every few seconds that it lives; one that has
-- not for half a minute is not believed. By the machine's own clock: it is no rule of the hours. Unlogged:
-- after a crash of the server every process says it all again.
create unlogged table web_processes (
    process text primary key,
    seen_at timestamptz not null
) with (fillfactor = 50);
create unlogged table presence (
    scope text not null,                      -- what the stream is of: conversation_id, client_id, …
    number integer not null,                  -- and its id
    party text not null,                      -- who looks: client or operator
    process text not null,
    primary key (scope, number, party, process)
);

create function believed_since() returns timestamptz
language sql stable as $$ select clock_timestamp() - interval '30 seconds' $$;

-- Who is present in the conversation, and through which kind of stream, each as 'party:scope'.
create function present_in(conversation conversations) returns text[]
language sql stable as $$
    select coalesce(array_agg(k.party || ':' || k.scope), '{}')
      from (values ('conversation_id', conversation.conversation_id, 'client'),
                   ('conversation_id', conversation.conversation_id, 'operator'),
                   ('client_id', conversation.client_id, 'client'),
                   ('operator_id', conversation.operator_id, 'operator'),
                   ('store_id', conversation.store_id, 'operator')) k(scope, number, party)
     where (select true from presence p join web_processes w using (process)
             where p.scope = k.scope and p.number = k.number and p.party = k.party
               and w.seen_at > believed_since() limit 1)
$$;

-- A web process says that it lives, who has come to its streams and who has left them, and forgets processes
-- that have died. Tells the web processes who is present now and was not, and the other way round. One call at a
-- time, lest one that leaves and one that comes overlook each other. Lists are of {scope, number, party}.
create function keep_presence(process text, came jsonb, gone jsonb) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    signal text;
begin
    perform pg_advisory_xact_lock(presence_lock());
    insert into web_processes values (keep_presence.process, clock_timestamp())
    on conflict (process) do update set seen_at = excluded.seen_at;
    for signal in
    with dead as (
        delete from web_processes w where w.seen_at <= believed_since() returning w.process
    ), removed as (
        delete from presence p
         where p.process in (select process from dead)
            or p.process = keep_presence.process
               and (p.scope, p.number, p.party) in (
                   select g.scope, g.number, g.party
                     from jsonb_to_recordset(gone) g(scope text, number integer, party text))
        returning p.*
    ), added as (
        insert into presence
        select c.scope, c.number, c.party, keep_presence.process
          from jsonb_to_recordset(came) c(scope text, number integer, party text)
        on conflict do nothing
        returning *
    ), moved as (
        select a.scope, a.number, a.party, true as present
          from added a left join presence before using (scope, number, party)
         where before.process is null
        union all
        select distinct r.scope, r.number, r.party, false
          from removed r
         where not exists (select from added a where (a.scope, a.number, a.party) = (r.scope, r.number, r.party))
           and not exists (select from presence p
                            where (p.scope, p.number, p.party) = (r.scope, r.number, r.party)
                              and not exists (select from removed o  -- of the process alone: hashed, and not once a row
                                               where (o.scope, o.number, o.party, o.process)
                                                   = (p.scope, p.number, p.party, p.process)))
    )
    select json_build_object(
                'event', 'presence', 'scope', json_build_array(m.scope, m.number),
                'data', json_build_object(
                    'conversation_id', c.conversation_id, 'party', m.party, 'present', m.present,
                    'id', case when m.party = 'client' then coalesce(c.client_id, m.number)
                               when m.scope <> 'store_id' then coalesce(c.operator_id, m.number) end),
                'to', json_strip_nulls(json_build_object(
                    'conversation_id', c.conversation_id,
                    'client_id', coalesce(c.client_id, case when m.scope = 'client_id' then m.number end),
                    'operator_id', coalesce(c.operator_id, o.operator_id),
                    'store_id', coalesce(c.store_id, o.store_id, case when m.scope = 'store_id' then m.number end)
                )))::text
      from moved m
      left join conversations c on m.scope = 'conversation_id' and c.conversation_id = m.number
      left join operators o on m.scope = 'operator_id' and o.operator_id = m.number
    loop
        perform pg_notify('chat_event', signal);
    end loop;
end $$;


-- Going out: channels -----------------------------------------------------------------------------------

-- One destination outside: a store's webhook, RabbitMQ, the XMPP domain. A relay reads the log on from the cursor,
-- publishes, waits for the far side's confirm, and only then moves the cursor: at least once, in order, with the
-- chat's id to know a repeat by. The life of a channel:
--
--   lease_channel()   one owner at a time; each lease has the next token, and an older one moves nothing
--   settle_batch()    the cursor moves, refused chats become dead letters, a failure is retried later
--   paused, disabled  nobody gets a lease (disabled: by the far side's own word, or after its last retry)
create table channels (
    channel_id integer generated always as identity primary key,
    store_id integer references stores,       -- null: of the whole system
    name text not null constraint channels_name check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    kind text not null constraint channels_kind check (kind in ('webhook', 'amqp', 'xmpp')),
    settings jsonb not null default '{}',     -- a webhook's url, secret and times
    cursor bigint not null,                   -- every chat of the log up to this position is done with
    token bigint not null default 0,          -- of the last lease
    lease_until timestamptz not null default '-infinity',
    leased_by text,
    attempts integer not null default 0,      -- failed in a row
    next_attempt_at timestamptz not null default '-infinity',
    last_error text,                          -- stays when all is well again: see attempts
    last_error_at timestamptz,
    paused_at timestamptz,
    disabled_at timestamptz,
    created_at timestamptz not null default shoptalk_now(),
    constraint channels_once unique nulls not distinct (store_id, name)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A channel's dead letters: what its far side refused for good, or nobody there wanted. requeue_at set:
-- delivered once more from then, late and with the same id.
create table channel_failures (
    channel_id integer not null references channels on delete cascade,
    position bigint not null,
    chat_id bigint not null,
    reason text not null,
    attempts integer not null default 1,
    failed_at timestamptz not null,
    requeue_at timestamptz,
    primary key (channel_id, position)
);
create index channel_failures_requeued on channel_failures (channel_id, position) where requeue_at is not null;
create index channel_failures_chat on channel_failures (channel_id, chat_id);

-- What a webhook's receiver answered, for a look; the newest of each channel are kept, see prune_channels().
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

-- Messages that came in without a chat_id of their own, by the id that they had where they came from: a
-- redelivery finds its chat. Kept for a week.
create table inbound_messages (
    source text not null,                     -- the kind of channel
    message_id text not null,
    chat_id bigint not null,
    received_at timestamptz not null,
    primary key (source, message_id)
);
create index inbound_messages_received on inbound_messages (received_at);

-- Wakes the relays when somebody changes what they should do.
create function notify_channels_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('channels_changed', '');
    return null;
end $$;
create trigger channels_changed
    after insert or delete or update of kind, settings, paused_at, disabled_at on channels
    for each statement execute function notify_channels_changed();

-- The XMPP address that a chat goes to, that of the other party; null: it has none.
create function recipient_jid(chat chats) returns text language sql stable as $$
    select case chat.sender when 'client' then (select o.xmpp_jid from operators o where o.operator_id = chat.operator_id)
                            else (select k.xmpp_jid from clients k where k.client_id = chat.client_id) end
$$;

-- Makes the channel of the whole system that a relay is configured for, if there is none; it begins with now.
-- Asked first, since an insert of nothing would wake the relays too.
create function open_system_channel(kind text) returns void
language plpgsql volatile as $$
begin
    if not exists (select from channels c where c.store_id is null and c.name = open_system_channel.kind) then
        insert into channels (name, kind, cursor)
        values (open_system_channel.kind, open_system_channel.kind, coalesce((select max(position) from sent_log), 0))
        on conflict do nothing;
    end if;
end $$;

-- Whether somebody has it. A lease that ends later than any that is given was given by another clock.
create function is_leased(channel channels, at timestamptz) returns boolean language sql immutable as $$
    select channel.lease_until > at and channel.lease_until <= at + interval '5 minutes'
$$;

-- The channel, now the caller's for so long; no row: somebody else's, or not to be worked on now.
create function lease_channel(channel_id integer, owner text, seconds double precision) returns setof channels
language sql volatile as $$
    update channels c
       set token = token + 1, lease_until = at + seconds * interval '1 second', leased_by = owner
      from (select shoptalk_now() as at) clock
     where c.channel_id = lease_channel.channel_id and paused_at is null and disabled_at is null
       and next_attempt_at <= at and not is_leased(c, at)
    returning c.*
$$;

-- The channel with its lease made longer; no row: it is somebody else's by now, or paused or gone.
create function renew_lease(channel_id integer, token bigint, seconds double precision) returns setof channels
language sql volatile as $$
    update channels c set lease_until = shoptalk_now() + seconds * interval '1 second'
     where c.channel_id = renew_lease.channel_id and c.token = renew_lease.token
       and paused_at is null and disabled_at is null
    returning *
$$;

-- Gives the lease back.
create function release_lease(channel_id integer, token bigint) returns void
language sql volatile as $$
    update channels c set lease_until = '-infinity', leased_by = null
     where c.channel_id = release_lease.channel_id and c.token = release_lease.token
$$;

-- What became of a batch, after the far side's word on it. False, and nothing is done: the lease went to
-- somebody else in the meantime, who delivers it again.
--
-- upto: the new cursor. attempts: 0 once something went well. done: positions delivered. refused: [{position, chat_id, reason, requeue_seconds}].
-- tried: [{chat_id, ago_seconds, took_seconds, status, error}], kept for a look.
create function settle_batch(
    channel_id integer, token bigint, upto bigint, attempts integer, done bigint[], refused jsonb, tried jsonb) returns boolean
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    at timestamptz := shoptalk_now();
begin
    update channels c
       set cursor = greatest(c.cursor, upto), attempts = attempts
     where c.channel_id = channel_id and c.token = token;
    if not found then
        return false;
    end if;
    delete from channel_failures f where f.channel_id = channel_id and f.position = any (done);
    insert into channel_failures as f (channel_id, position, chat_id, reason, failed_at, requeue_at)
    select channel_id, r.position, r.chat_id, r.reason, at, at + r.requeue_seconds * interval '1 second'
      from jsonb_to_recordset(refused) as r(position bigint, chat_id bigint, reason text, requeue_seconds float8)
    on conflict on constraint channel_failures_pkey do update
        set reason = excluded.reason, attempts = f.attempts + 1, failed_at = excluded.failed_at,
            requeue_at = case when f.attempts < 10 then excluded.requeue_at end;
    insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds, status, error)
    select channel_id, t.chat_id, at - t.ago_seconds * interval '1 second', t.took_seconds, t.status, t.error
      from jsonb_to_recordset(tried)
           as t(chat_id bigint, ago_seconds float8, took_seconds real, status integer, error text);
    return true;
end $$;

-- The far side cannot take chats now: nobody tries again before so many seconds are over. disable: nobody
-- tries again until resume_channel(). Gives the lease back.
create function put_off_channel(
    channel_id integer, token bigint, reason text, seconds double precision, disable boolean) returns void
language sql volatile as $$
    update channels c
       set attempts = attempts + 1, last_error = reason, last_error_at = at,
           next_attempt_at = at + seconds * interval '1 second',
           disabled_at = case when disable then at end, lease_until = '-infinity', leased_by = null
      from (select shoptalk_now() as at) clock
     where c.channel_id = put_off_channel.channel_id and c.token = put_off_channel.token
$$;

-- Moves the cursors of channels that have nothing to deliver up to a position: a relay that starts later
-- need not read so far back. The tokens say that nobody else has had them since the relay looked.
create function advance_idle_channels(channel_ids integer[], tokens bigint[], upto bigint) returns void
language sql volatile as $$
    update channels c set cursor = upto
      from unnest(channel_ids, tokens) as idle(channel_id, token)
     where c.channel_id = idle.channel_id and c.token = idle.token and c.cursor < upto
$$;

-- Forgets the attempts of each channel before its newest thousand, and messages received a week ago.
create function prune_channels() returns void
language sql volatile as $$
    delete from channel_attempts a
     using channels c, lateral (select attempt_id from channel_attempts n where n.channel_id = c.channel_id
                                 order by attempt_id desc offset 999 limit 1) oldest
     where a.channel_id = c.channel_id and a.attempt_id < oldest.attempt_id;
    delete from inbound_messages where received_at < shoptalk_now() - interval '7 days'
$$;

-- The chat ids of messages that come in from a source: the same for the same message_id, whenever it comes.
-- chat_ids: of those that have their own. Parallel; null where a message has neither.
create function chats_of_messages(source text, message_ids text[], chat_ids bigint[] default null) returns bigint[]
language plpgsql volatile as $$
#variable_conflict use_variable
begin
    -- In one order, so that two callers with the same messages wait for each other and do not deadlock; the
    -- second then finds what the first has committed.
    insert into inbound_messages (source, message_id, chat_id, received_at)
    select source, id, nextval('generated_chat_ids'), shoptalk_now()
      from (select distinct id from unnest(message_ids) id where id is not null order by id) new
    on conflict on constraint inbound_messages_pkey do nothing;
    return (select array_agg(coalesce(i.chat_id, m.chat_id) order by i.place)
              from unnest(message_ids, chat_ids) with ordinality as i(message_id, chat_id, place)
              left join inbound_messages m on m.source = source and m.message_id = i.message_id);
end $$;

-- Accepts chats that came in from RabbitMQ; as enqueue_chats(), with the message_id of each.
create function enqueue_from_amqp(
    message_ids text[], conversation_ids integer[], client_ids integer[], operator_ids integer[],
    payloads text[], senders text[], chat_ids bigint[], urgents boolean[]) returns setof enqueued_item
language plpgsql volatile as $$
begin
    return query select * from enqueue_chats(
        conversation_ids, client_ids, operator_ids, payloads, senders,
        chats_of_messages('amqp', message_ids, chat_ids), urgents);
end $$;


-- Mending channels, for people: pause_channel(), resume_channel(), replay_channel(), requeue, skip ----------

-- All take the channel's name and its store, null for one of the whole system ('amqp', 'xmpp'). They raise ST404 where
-- there is no such channel.
create function find_channel(name text, store_id integer) returns channels
language plpgsql stable as $$
declare
    channel channels;
begin
    select * into channel from channels c
     where c.name = find_channel.name and c.store_id is not distinct from find_channel.store_id;
    if not found then
        raise 'there is no channel %', name using errcode = 'ST404', column = 'name';
    end if;
    return channel;
end $$;

-- Makes a store's webhook, or changes it: then it tries at once, whatever stood in its way. secret null: the
-- one it has, or `made`. Raises ST404 for an unknown store.
create function put_webhook(
    store_id integer, name text, settings jsonb, secret text, made text, from_start boolean,
    out created boolean, out secret_now text)
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    old jsonb;
begin
    if not exists (select from stores s where s.store_id = store_id) then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    insert into channels (store_id, name, kind, settings, cursor)
    values (store_id, name, 'webhook', settings || jsonb_build_object('secret', coalesce(secret, made)),
            case when from_start then 0 else (select coalesce(max(position), 0) from sent_log) end)
    on conflict on constraint channels_once do nothing;
    created := found;
    secret_now := coalesce(secret, made);
    if not created then
        select c.settings into old from channels c
         where c.store_id = store_id and c.name = name for update;
        secret_now := coalesce(secret, old ->> 'secret');
        if secret_now <> old ->> 'secret' then
            settings := settings || jsonb_build_object('old_secret', old ->> 'secret', 'replaced_at', shoptalk_now());
        else
            settings := settings || jsonb_strip_nulls(jsonb_build_object(
                'old_secret', old ->> 'old_secret', 'replaced_at', old ->> 'replaced_at'));
        end if;
        update channels c
           set settings = settings || jsonb_build_object('secret', secret_now),
               disabled_at = null, attempts = 0, next_attempt_at = '-infinity'
         where c.store_id = store_id and c.name = name;
    end if;
end $$;

-- Nothing goes out until resume_channel(); a batch on its way ends first.
create function pause_channel(name text, store_id integer default null) returns void
language sql volatile as $$
    update channels c set paused_at = coalesce(paused_at, shoptalk_now())
     where channel_id = (find_channel(pause_channel.name, pause_channel.store_id)).channel_id
$$;

-- Goes on, at once, whether it was paused, disabled or waiting for its next attempt.
create function resume_channel(name text, store_id integer default null) returns void
language sql volatile as $$
    update channels c set paused_at = null, disabled_at = null, attempts = 0, next_attempt_at = '-infinity'
     where channel_id = (find_channel(resume_channel.name, resume_channel.store_id)).channel_id
$$;

-- Delivers once more all after a position of the log (0: all there is), or leaves out what is before it.
-- Whoever has the lease loses it.
create function replay_channel(name text, store_id integer, after bigint) returns void
language plpgsql volatile as $$
begin
    update channels c
       set cursor = least(replay_channel.after, (select coalesce(max(position), 0) from sent_log)), token = token + 1,
           lease_until = '-infinity', leased_by = null, attempts = 0, next_attempt_at = '-infinity'
     where channel_id = (find_channel(replay_channel.name, replay_channel.store_id)).channel_id;
    perform pg_notify('channels_changed', '');
end $$;

-- Delivers a dead letter of the channel once more, or all of them (chat_id null). Raises ST404 for a chat
-- that is none.
create function requeue_on_channel(name text, store_id integer, chat_id bigint default null) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    update channel_failures f set requeue_at = shoptalk_now()
     where f.channel_id = (find_channel(requeue_on_channel.name, requeue_on_channel.store_id)).channel_id
       and (requeue_on_channel.chat_id is null or f.chat_id = requeue_on_channel.chat_id);
    if not found and requeue_on_channel.chat_id is not null then
        raise 'chat % is no dead letter of channel %', requeue_on_channel.chat_id, requeue_on_channel.name
            using errcode = 'ST404', column = 'chat_id';
    end if;
    perform pg_notify('channels_changed', '');
end $$;

-- Gives a chat up on this channel: a dead letter is forgotten, and the chat that a failing channel waits
-- with (the first one after its cursor) is passed over. Raises ST404 for any other chat.
create function skip_on_channel(name text, store_id integer, chat_id bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    channel channels := find_channel(skip_on_channel.name, skip_on_channel.store_id);
    first record;
begin
    delete from channel_failures f where f.channel_id = channel.channel_id and f.chat_id = skip_on_channel.chat_id;
    if found then
        return;
    end if;
    select l.position, l.chat_id into first
      from sent_log l join conversations v on v.conversation_id = l.conversation_id
      join chats c on c.chat_id = l.chat_id
     where l.position > channel.cursor and (channel.store_id is null or v.store_id = channel.store_id)
       and (channel.kind <> 'xmpp' or recipient_jid(c) is not null)
     order by l.position limit 1;
    if first.chat_id is distinct from skip_on_channel.chat_id then
        raise 'chat % is neither a dead letter of channel % nor the next that it delivers',
              skip_on_channel.chat_id, skip_on_channel.name using errcode = 'ST404', column = 'chat_id';
    end if;
    perform replay_channel(skip_on_channel.name, skip_on_channel.store_id, first.position);
end $$;


-- A person's data: export_client(), erase_client() -----------------------------------------------------------

create function chats_of_client(client_id integer) returns setof chats
language sql stable as $$
    select c.* from conversations v join chats c using (conversation_id) where v.client_id = chats_of_client.client_id
$$;

-- All that there is of a client, to hand over. Raises ST404 for one that does not exist.
create function export_client(client_id integer) returns jsonb
language plpgsql stable set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    answer jsonb;
begin
    select jsonb_build_object(
        'client', to_jsonb(k),
        'quiet_hours', (select to_jsonb(q) - 'client_id' from quiet_hours q where q.client_id = k.client_id),
        'conversations', (
            select coalesce(jsonb_agg(to_jsonb(v) - 'client_id' || jsonb_build_object(
                'operator_name', (select o.operator_name from operators o where o.operator_id = v.operator_id),
                'read', (select jsonb_object_agg(m.reader, m.seq) from read_marks m where m.conversation_id = v.conversation_id),
                'delivered', (select jsonb_object_agg(m.party, m.seq) from delivered_marks m
                               where m.conversation_id = v.conversation_id),
                'chats', (select coalesce(jsonb_agg(to_jsonb(c) - '{conversation_id,client_id,operator_id}'::text[]
                                                    || jsonb_build_object('state', s.state, 'sent_at', s.sent_at)
                                                    order by c.seq), '[]')
                            from chats c join chat_states s using (chat_id)
                           where c.conversation_id = v.conversation_id)) order by v.conversation_id), '[]')
              from conversations v where v.client_id = k.client_id),
        'sending_failed', (
            select coalesce(jsonb_agg(to_jsonb(f) order by f.chat_id), '[]')
              from chats_of_client(k.client_id) c join chat_failures f using (chat_id)),
        'delivery_failed', (
            select coalesce(jsonb_agg(to_jsonb(f) || jsonb_build_object('channel', h.name) order by f.chat_id), '[]')
              from chats_of_client(k.client_id) c join channel_failures f using (chat_id) join channels h using (channel_id)),
        'deliveries', (
            select coalesce(jsonb_agg(to_jsonb(a) || jsonb_build_object('channel', h.name) order by a.attempt_id), '[]')
              from chats_of_client(k.client_id) c join channel_attempts a using (chat_id) join channels h using (channel_id)),
        'messages', (
            select coalesce(jsonb_agg(to_jsonb(i) order by i.chat_id), '[]')
              from chats_of_client(k.client_id) c join inbound_messages i using (chat_id)))
      into answer
      from clients k where k.client_id = export_client.client_id;
    if not found then
        raise 'there is no client %', client_id using errcode = 'ST404', column = 'client_id';
    end if;
    return answer;
end $$;

-- Makes a client nobody: what would still be sent is cancelled, every text of theirs and to them, and whatever else a
-- person could be known by, is replaced, for good. Ids, seq, positions and instants stay, so that order, cursors and counts
-- do. Doing it again replaces what has come since. Raises ST404 for one that does not exist.
create function erase_client(client_id integer, out conversations bigint, out chats bigint, out cancelled bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    erased constant text := '[erased]';
    mine integer[];           -- their conversations,
    ids bigint[];             -- and the chats in them
begin
    -- In the order of enqueue_chat(): nobody begins a conversation with them meanwhile, nor goes on with one.
    perform from clients k where k.client_id = erase_client.client_id for update;
    if not found then
        raise 'there is no client %', client_id using errcode = 'ST404', column = 'client_id';
    end if;
    mine := array(select v.conversation_id from conversations v
                   where v.client_id = erase_client.client_id order by 1 for no key update);
    conversations := cardinality(mine);

    -- Waits for a sender that has a pointer claimed, and then finds it gone: that chat is sent.
    with waited as (
        delete from chat_queue q where q.conversation_id = any (mine) returning q.chat_id
    ), dead as (
        delete from chat_failures f using chats c
         where c.conversation_id = any (mine) and f.chat_id = c.chat_id and f.dead_at is not null
        returning f.chat_id
    ), gone as (
        insert into cancelled_chats
        select chat_id, shoptalk_now() from (select * from waited union select * from dead) w on conflict do nothing
        returning 1
    )
    select count(*) into cancelled from gone;

    update clients k set username = erased, location = erased, xmpp_jid = null where k.client_id = erase_client.client_id;
    delete from quiet_hours q where q.client_id = erase_client.client_id;
    ids := array(select chat_id from chats_of_client(erase_client.client_id));
    update chats c set payload = erased, template = null
     where c.conversation_id = any (mine) and (c.payload <> erased or c.template is not null);
    get diagnostics chats = row_count;

    -- What others wrote about their chats may quote them.
    update chat_failures f set reason = erased where f.chat_id = any (ids);
    update channel_failures f set reason = erased where f.chat_id = any (ids);
    update channel_attempts a set error = erased where a.chat_id = any (ids) and a.error is not null;
    delete from channel_attempts a where not exists (select from chats c where c.chat_id = a.chat_id);  -- whose? Pruned
    update inbound_messages i set message_id = erased || ' ' || i.chat_id where i.chat_id = any (ids);
    update channels h set last_error = erased
     where h.last_error is not null
       and (h.store_id is null or h.store_id in (select v.store_id from conversations v where v.conversation_id = any (mine)));
end $$;


-- Forgetting: prune() ---------------------------------------------------------------------------------------

-- One prunes at a time.
create function prune_lock() returns bigint language sql immutable as $$ select 7310579105 $$;

-- Where the log begins by now, one row. Whoever wants its first entry looks from there, past the dead rows in front;
-- and how the last prune() went.
create table pruned (
    upto bigint not null,                     -- all entries of the log up to this position are gone
    at timestamptz,                           -- when prune() last ran; null: never
    keep interval,                            -- and what it was to keep
    held_by integer                           -- the channel that needs older entries than that; null: none
);
create unique index pruned_single_row on pruned ((true));
insert into pruned (upto) values (0);

create type prune_report as (
    sent bigint,              -- chats removed that were sent, with their entries of the log
    cancelled bigint,         -- chats removed that were cancelled
    more boolean,             -- there are more: call again
    held_by integer           -- the channel that needs what is older still; null: none
);

-- Up to which position the log may be pruned of what is older than `keep`, at most so many entries (null: any
-- number), and the channel that stops it there.
--
-- From the front only, so that positions have no gaps behind it, and never the last entry, because the next position
-- is counted from it. What a channel has not delivered, or is to deliver once more, stays with all behind it.
create function prunable(keep interval, most bigint, out upto bigint, out held_by integer)
language plpgsql stable set enable_seqscan = off as $$
declare
    floor bigint := (select p.upto from pruned p);
    last bigint := coalesce((select max(position) from sent_log), 0);
    until bigint := least(floor + most, last - 1);
    old_upto bigint;
    needed record;
begin
    select coalesce(
               (select l.position - 1 from sent_log l
                 where l.position > floor and l.position <= until and l.sent_at >= shoptalk_now() - keep
                 order by l.position limit 1),
               until)
      into old_upto;
    select n.channel_id, n.position into needed
      from (select c.channel_id, c.cursor + 1 as position from channels c
            union all
            select f.channel_id, f.position from channel_failures f where f.requeue_at is not null) n
     order by n.position limit 1;
    upto := greatest(floor, least(old_upto, needed.position - 1));
    if upto < old_upto then
        held_by := needed.channel_id;
    end if;
end $$;

-- Removes what was sent or cancelled longer ago than `keep`: at most so many chats of each in one short transaction,
-- so call it until there is no more. Null: somebody else is at it.
--
-- What waits or has failed stays, however old. So do conversations, since their last_seq is what the next seq is
-- counted from. send_chats() needs nothing of what goes: it asks the log for a chat's predecessor and, where the log
-- does not have it, whether an earlier one of the conversation still waits; of what is gone none does.
-- Waits for nobody: the first chat that somebody has locked (erase_client()) is where it stops.
create function prune(keep interval, most integer default 500) returns prune_report
language plpgsql volatile set enable_seqscan = off as $$
declare
    began_at timestamptz := shoptalk_now();
    floor bigint;
    allowed record;
    last bigint;
    ids bigint[];
    report prune_report;
begin
    if keep < interval '1 day' or most < 1 then
        raise 'at least a day is kept, and at least one chat is removed at a time' using errcode = '22023';
    end if;
    if not pg_try_advisory_xact_lock(prune_lock()) then
        return null;
    end if;
    floor := (select p.upto from pruned p);
    select * into allowed from prunable(keep, most);

    with old as materialized (
        select l.position, l.chat_id from sent_log l where l.position > floor and l.position <= allowed.upto
    ), free as materialized (
        select c.chat_id from chats c where c.chat_id in (select o.chat_id from old o) for update of c skip locked
    )
    select coalesce(min(o.position) - 1, allowed.upto) into last
      from old o
     where not exists (select from free f where f.chat_id = o.chat_id)
       and exists (select from chats c where c.chat_id = o.chat_id);
    with gone as (
        delete from sent_log l where l.position > floor and l.position <= last returning l.chat_id
    )
    select coalesce(array_agg(chat_id), '{}') into ids from gone;
    delete from channel_failures f using channels c where f.channel_id = c.channel_id and f.position <= last;
    delete from chat_failures f where f.chat_id = any (ids);
    delete from chats c where c.chat_id = any (ids);
    report.sent := cardinality(ids);

    select coalesce(array_agg(chat_id), '{}') into ids
      from (select c.chat_id from cancelled_chats x join chats c on c.chat_id = x.chat_id
             where x.cancelled_at < began_at - prune.keep order by x.cancelled_at limit most for update of c skip locked) old;
    delete from cancelled_chats x where x.chat_id = any (ids);
    delete from chat_failures f where f.chat_id = any (ids);
    delete from chats c where c.chat_id = any (ids);
    report.cancelled := cardinality(ids);

    report.more := report.sent = most or report.cancelled = most;
    report.held_by := allowed.held_by;
    if not report.more then
        delete from channel_attempts a where a.attempted_at < began_at - prune.keep;
    end if;
    update pruned p set upto = last, at = began_at, keep = prune.keep, held_by = report.held_by;
    return report;
end $$;


-- Keys and tokens -----------------------------------------------------------------------------------------

-- What programs show to the API. A key has 256 random bits, so there is nothing to guess and a plain SHA-256 is
-- enough to keep it by. Once there is a row here, revoked or not, the API asks everybody for a key.
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

-- The keys for people to look at: without what they are known by.
create view keys as
    select key_id, name, scopes, store_id, created_at, revoked_at from api_keys;

-- 256 random bits, out of the server's cryptographic generator: three UUIDs have 366.
create function random_secret() returns bytea language sql volatile as $$
    select sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
$$;

-- Makes a key and answers it, the only time that it is seen. store_id null: of all stores. Raises ST409 while
-- another key has the name, ST404 for an unknown store, 23514 for an unknown scope.
create function make_key(name text, scopes text[] default '{send,read,admin}', store_id integer default null)
returns text language plpgsql volatile as $$
#variable_conflict use_variable
declare
    key text := 'shoptalk_' || encode(random_secret(), 'hex');
begin
    if store_id is not null and not exists (select from stores s where s.store_id = make_key.store_id) then
        raise 'there is no store %', store_id using errcode = 'ST404', column = 'store_id';
    end if;
    insert into api_keys (name, hash, scopes, store_id) values (name, sha256(convert_to(key, 'UTF8')), scopes, store_id)
    on conflict do nothing;
    if not found then
        raise 'there is a key % already', name using errcode = 'ST409', column = 'name';
    end if;
    return key;
end $$;

-- The key is worth nothing any more, nor is any token that it has minted; web processes notice within 5 s. Raises
-- ST404 where no live key has the name.
create function revoke_key(name text) returns void
language plpgsql volatile as $$
begin
    update api_keys k set revoked_at = shoptalk_now() where k.name = revoke_key.name and revoked_at is null;
    if not found then
        raise 'there is no key %', name using errcode = 'ST404', column = 'name';
    end if;
end $$;

-- What tokens are signed with: by the newest, and each is accepted until a day after its successor came.
create table token_secrets (
    secret_id integer generated always as identity primary key,
    secret bytea not null default random_secret(),
    created_at timestamptz not null default shoptalk_now()
);
insert into token_secrets default values;

-- Signs with a new secret from now on. forget: and every token that is out is worth nothing any more.
create function rotate_token_secret(forget boolean default false) returns void
language sql volatile as $$
    with added as (
        insert into token_secrets default values
    )
    delete from token_secrets t
     where forget or exists (select from token_secrets newer
                              where newer.secret_id > t.secret_id
                                and newer.created_at < shoptalk_now() - interval '1 day')
$$;


-- Coming in from outside ----------------------------------------------------------------------------------

-- enqueue_chat() for what somebody writes to a conversation's XMPP address; message_id: by which it is known when it
-- comes again, null where it has none. Raises ST403 for everybody who is not in it,
-- also where there is no such conversation: a stranger learns nothing.
create function enqueue_from_xmpp(conversation_id integer, xmpp_jid text, message_id text, payload text)
returns enqueued_chat
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    v record;
begin
    select k.client_id, o.operator_id,
           case xmpp_jid when k.xmpp_jid then 'client' when o.xmpp_jid then 'operator' end as sender
      into v
      from conversations c join clients k using (client_id) join operators o using (operator_id)
     where c.conversation_id = conversation_id;
    if v.sender is null then
        raise 'you are not in conversation %', conversation_id using errcode = 'ST403', column = 'conversation_id';
    end if;
    return enqueue_chat(conversation_id, v.client_id, v.operator_id, payload, v.sender,
                        (chats_of_messages('xmpp', array[message_id]))[1]);
end $$;

-- The party's device has the chat, and so all before it. Nothing happens where that was known, or where it is not
-- the party that the chat was sent to who says so. Tells those who look.
create function mark_delivered(conversation_id integer, chat_id bigint, xmpp_jid text) returns void
language plpgsql volatile as $$
#variable_conflict use_variable
declare
    conversation conversations;
    party text;
    seq integer;
begin
    select case c.sender when 'client' then 'operator' else 'client' end, l.seq into party, seq
      from chats c join sent_log l on l.conversation_id = c.conversation_id and l.seq = c.seq
     where c.chat_id = chat_id and c.conversation_id = conversation_id and recipient_jid(c) = xmpp_jid;
    insert into delivered_marks as m (conversation_id, party, seq)
    select conversation_id, party, seq where seq is not null
    on conflict on constraint delivered_marks_pkey do update set seq = excluded.seq where m.seq < excluded.seq;
    if found then
        select * into conversation from conversations v where v.conversation_id = conversation_id;
        perform pg_notify('chat_event', json_build_object(
            'event', 'delivered',
            'data', json_build_object('conversation_id', conversation_id, 'party', party, 'seq', seq),
            'to', json_build_object('conversation_id', conversation_id, 'client_id', conversation.client_id,
                                    'operator_id', conversation.operator_id, 'store_id', conversation.store_id))::text);
    end if;
end $$;

-- The chat came back from its XMPP address after it had counted as delivered: a dead letter, late. Nothing happens
-- where somebody says so who is not the one it was sent to. requeue_seconds not null: once more then, for three days.
create function bounced_on_xmpp(
    conversation_id integer, chat_id bigint, xmpp_jid text, reason text, requeue_seconds double precision) returns void
language sql volatile as $$
    insert into channel_failures as f (channel_id, position, chat_id, reason, failed_at, requeue_at)
    select h.channel_id, l.position, c.chat_id, bounced_on_xmpp.reason, at,
           case when l.sent_at > at - interval '3 days' then at + requeue_seconds * interval '1 second' end
      from chats c join sent_log l on l.conversation_id = c.conversation_id and l.seq = c.seq
      join channels h on h.store_id is null and h.kind = 'xmpp' and h.cursor >= l.position,
           lateral (select shoptalk_now() as at) clock
     where c.chat_id = bounced_on_xmpp.chat_id and c.conversation_id = bounced_on_xmpp.conversation_id
       and recipient_jid(c) = bounced_on_xmpp.xmpp_jid
    on conflict on constraint channel_failures_pkey do update
        set reason = excluded.reason, attempts = f.attempts + 1, failed_at = excluded.failed_at,
            requeue_at = case when f.attempts < 10 then excluded.requeue_at end
$$;



-- Looking: views for people -----------------------------------------------------------------------------

-- Every chat with its state. release_at: for a held chat, when it may go.
create view chat_states as
    select c.chat_id, c.conversation_id, c.seq,
           case when x.chat_id is not null then 'cancelled'
                when f.chat_id is not null then 'failed'
                when q.chat_id is null then 'sent'
                when q.held_since is not null and q.due_at > shoptalk_now() then 'held'
                else 'queued' end as state,
           case when q.held_since is not null and q.due_at > shoptalk_now() then nullif(q.due_at, 'infinity') end
               as release_at,
           l.sent_at
      from chats c
      left join chat_queue q on q.conversation_id = c.conversation_id and q.seq = c.seq
      left join cancelled_chats x on x.chat_id = c.chat_id
      left join chat_failures f on f.chat_id = c.chat_id and f.dead_at is not null
      left join sent_log l on l.conversation_id = c.conversation_id and l.seq = c.seq;

-- Whether the queue is too long, for whoever asks each second while it is: no counting. waiting: the pointers, held ones
-- too, by the server's own count of rows (right to within a second or two; after a crash it begins anew, from the next
-- ANALYZE). oldest_seconds: how long the oldest live chat that may go has waited; looked for from where sending stands,
-- past the dead rows in front, which somebody's open snapshot may have made a million.
create function queue_pressure(out waiting bigint, out oldest_seconds double precision)
language sql stable set enable_seqscan = off as $$
    select pg_stat_get_live_tuples('chat_queue'::regclass),
           coalesce(greatest(0, extract(epoch from shoptalk_now() - (
               select q.due_at from chat_queue q
                where q.held_since is null and q.due_at >= coalesce((
                    select least(c.release_at, c.created_at, l.sent_at) - interval '1 second'
                      from sent_log l join chats c on c.chat_id = l.chat_id
                     where l.position = (select max(position) from sent_log)), '-infinity')
                order by q.due_at, q.seq limit 1))), 0)
$$;

-- What is paused, and how many chats wait there.
create view paused as
    select 'store' as kind, s.store_id as id, s.paused_at,
           (select count(*) from chat_queue q where q.store_id = s.store_id) as waiting
      from stores s where s.paused_at is not null
    union all
    select 'conversation', c.conversation_id, c.paused_at,
           (select count(*) from chat_queue q where q.conversation_id = c.conversation_id)
      from conversations c where c.paused_at is not null;

-- One row a state. oldest: since when the chat that is longest in this state has been in it (of sent:
-- when the first that is kept was sent). The sent are not counted but read off the log's last position.
create view queue_status as
    with waiting as (
        select count(*) filter (where is_held) as held,
               min(held_since) filter (where is_held) as oldest_held,
               min(due_at) filter (where is_held and due_at < 'infinity') as next_release,
               count(*) filter (where not is_held) as queued,
               min(due_at) filter (where not is_held) as oldest_queued
          from chat_queue,
               lateral (select held_since is not null and due_at > (select shoptalk_now()) as is_held) h
    )
    select 'held' as state, held as chats, oldest_held as oldest, next_release from waiting
    union all
    select 'queued', queued, oldest_queued, null from waiting
    union all
    select 'sent', coalesce((select max(position) from sent_log), 0),
           (select sent_at from sent_log where position > (select upto from pruned) order by position limit 1), null
    union all
    select 'failed', count(*), min(dead_at), null from chat_failures where dead_at is not null
    union all
    select 'cancelled', count(*), min(cancelled_at), null from cancelled_chats;

-- How queue_status was, one sample each 30 s for a day: what the plot of the desk's queue view is made of.
create table queue_samples (
    at timestamptz primary key,               -- the beginning of its 30 s
    held bigint not null,
    queued bigint not null,
    failed bigint not null,
    sent bigint not null,                     -- ever; the rate is the difference of two
    cancelled bigint not null,
    oldest_held timestamptz,                  -- since when the one that is held longest has been
    next_release timestamptz,
    channels jsonb not null,                  -- see channel_totals
    -- How long the first that might go had waited then. queue_pressure() does not see one that was passed over.
    queued_seconds double precision not null default 0
);

-- One worker takes it.
create function sample_lock() returns bigint language sql immutable as $$ select 7310579106 $$;

-- Takes the sample of this moment, unless another worker has or is about to, and forgets what is older than a day.
create function sample_queue() returns void
language plpgsql volatile as $$
declare
    slot timestamptz := date_bin('30 seconds', shoptalk_now(), '2000-01-01');
begin
    if exists (select from queue_samples s where s.at = slot) or not pg_try_advisory_xact_lock(sample_lock()) then
        return;
    end if;
    insert into queue_samples (at, held, queued, failed, sent, cancelled, oldest_held, next_release, channels, queued_seconds)
    select slot, sum(chats) filter (where state = 'held'), sum(chats) filter (where state = 'queued'),
           sum(chats) filter (where state = 'failed'), sum(chats) filter (where state = 'sent'),
           sum(chats) filter (where state = 'cancelled'),
           min(oldest) filter (where state = 'held'), min(next_release),
           (select coalesce(jsonb_agg(t), '[]') from channel_totals t),
           coalesce(greatest(0, extract(epoch from shoptalk_now() - min(oldest) filter (where state = 'queued'))), 0)
      from queue_status
    on conflict do nothing;
    delete from queue_samples s where s.at < slot - interval '24 hours';
end $$;


-- Roles: what each process may do, and no more ----------------------------------------------------------------
--
-- Four roles that cannot log in, for you to grant to the accounts that do: `grant shoptalk_web to shop_web`.
-- The owner of the schema needs none of them. Roles belong to the whole cluster, and making them takes a right
-- that the owner may lack: then somebody else makes them, and the owner calls grant_roles(), as after a restore.

-- How a channel does, without its secrets.
create view channel_status as
    select c.channel_id, c.store_id, c.name, c.kind, c.settings ->> 'url' as url, c.cursor,
           case when c.disabled_at is not null then 'disabled' when c.paused_at is not null then 'paused'
                when c.attempts > 0 then 'failing' else 'active' end as state,
           greatest((select coalesce(max(position), 0) from sent_log) - c.cursor, 0) as behind,
           (select count(*) from channel_failures f where f.channel_id = c.channel_id) as failures,
           c.attempts, case when c.next_attempt_at > shoptalk_now() then c.next_attempt_at end as retry_at,
           c.last_error, c.last_error_at
      from channels c;

-- The same of all channels of a kind and state together. behind: of the one that is furthest back; behind_since: since
-- when what it has next is in the log. A channel with nothing to deliver follows within 90 s.
create view channel_totals as
    select kind, state, count(*) as channels, sum(failures) as dead_letters, max(behind) as behind,
           (select sent_at from sent_log l where l.position > min(s.cursor) order by l.position limit 1) as behind_since
      from channel_status s
     group by kind, state;

-- What the roles write, they write through these functions, which run with the owner's rights. The owner's, too, is the
-- trigger that a change of hours leaves for the commit, when no function is left around it.
create function functions_of_roles() returns table (role name, functions regproc[])
language sql stable as $$
    values ('shoptalk_web'::name, '{enqueue_chat,enqueue_chats,cancel_chat,edit_chat,add_store,change_hours,close_on,
                set_quiet_hours,mark_read,keep_presence,put_webhook,pause_channel,resume_channel,replay_channel,
                requeue_on_channel,skip_on_channel}'::regproc[]),
           ('shoptalk_worker', '{send_chats,keep_hours,sample_queue,prune}'),
           ('shoptalk_relay', '{lease_channel,renew_lease,release_lease,settle_batch,put_off_channel,
                advance_idle_channels,prune_channels,open_system_channel,enqueue_from_amqp,enqueue_from_xmpp,
                mark_delivered,bounced_on_xmpp}')
$$;

do $$
declare
    writing regprocedure;
begin
    for writing in
        select unnest(functions)::oid::regprocedure from functions_of_roles() union all select 'hours_changed()'
    loop
        -- A path of their own: nobody's table of the same name, a temporary one neither, gets in between.
        execute format('alter function %s security definer set search_path = %I, pg_temp', writing, current_schema());
        execute format('revoke execute on function %s from public', writing);
    end loop;
end $$;

-- Gives the roles that there are what they may do.
create function grant_roles() returns void
language plpgsql as $$
declare
    known name[] := array(select rolname from pg_roles);
    role name;
    writing regprocedure;
begin
    for role in select r from unnest('{shoptalk_web,shoptalk_worker,shoptalk_relay,shoptalk_inspector}'::name[]) r
                 where r = any (known)
    loop
        execute format('grant usage on schema %I to %I', current_schema(), role);
        execute format('grant select on schema_version to %I', role);
    end loop;
    for role, writing in
        select f.role, unnest(f.functions)::oid::regprocedure from functions_of_roles() f where f.role = any (known)
    loop
        execute format('grant execute on function %s to %I', writing, role);
    end loop;
    if 'shoptalk_web' = any (known) then
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients, quiet_hours,
            operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats, read_marks, delivered_marks,
            queue_samples, web_processes, presence, api_keys, token_secrets, channel_failures, channel_attempts, pruned,
            chat_states, queue_status, channel_status to shoptalk_web;
        grant insert on clients, operators to shoptalk_web;
        grant select (channel_id), delete on channels to shoptalk_web;
    end if;
    if 'shoptalk_relay' = any (known) then
        grant select on conversations, chats, sent_log, channels, channel_failures, pruned to shoptalk_relay;
        grant select (client_id, xmpp_jid) on clients to shoptalk_relay;
        grant select (operator_id, xmpp_jid) on operators to shoptalk_relay;
    end if;
    if 'shoptalk_inspector' = any (known) then
        grant select on stores, store_hours, store_exceptions, store_exception_spans, store_paces, clients, quiet_hours,
            operators, conversations, chats, chat_queue, sent_log, chat_failures, cancelled_chats, read_marks, delivered_marks,
            queue_samples, web_processes, presence, channel_failures, channel_attempts, inbound_messages, pruned,
            chat_states, queue_status, paused, channel_status, channel_totals, keys to shoptalk_inspector;
    end if;
end $$;

do $$
declare
    role name;
begin
    foreach role in array '{shoptalk_web,shoptalk_worker,shoptalk_relay,shoptalk_inspector}'::name[] loop
        begin
            execute format('create role %I nologin', role);
        exception
            when duplicate_object or unique_violation then null;  -- another database of the cluster has made it
            when insufficient_privilege then raise notice 'role % was not made: may not', role;
        end;
    end loop;
    perform grant_roles();
end $$;
