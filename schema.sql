-- The database as it is today: the only DDL, readable from top to bottom.
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
insert into schema_version values (1);


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


-- People and stores ---------------------------------------------------------------------------------

create table stores (
    store_id integer primary key check (store_id > 0),
    timezone text not null default 'UTC',     -- an IANA name
    opens time not null default '09:00',
    closes time not null default '14:00',     -- at or before opens: the span runs past midnight

    -- The opening period last looked up, right for every instant in [closed_since, closes_at): closed
    -- before opens_at, open from it. It spares the hot paths the calendar; opening_period() is the truth.
    closed_since timestamptz not null default '-infinity',
    opens_at timestamptz not null default '-infinity',
    closes_at timestamptz not null default '-infinity',

    -- Not null for a zone that PostgreSQL knows, an error (22023) for any other.
    constraint stores_timezone check ((timestamptz '2000-01-01' at time zone timezone) is not null),
    constraint stores_times check (opens < time '24:00' and closes < time '24:00')
);
create index stores_opens_at on stores (opens_at);
create index stores_closes_at on stores (closes_at);
create index stores_closed_since on stores (closed_since);

create table clients (
    client_id integer primary key check (client_id > 0),
    username text not null check (char_length(username) between 1 and 100),
    location text not null check (char_length(location) between 1 and 100)
);

create table operators (
    operator_id integer primary key check (operator_id > 0),
    operator_name text not null check (char_length(operator_name) between 1 and 100),
    operator_group text not null check (char_length(operator_group) between 1 and 100),
    store_id integer not null references stores
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
    created_at timestamptz not null default shoptalk_now()
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
-- What an operator's and a store's desk list.
create index conversations_operator on conversations (operator_id);
create index conversations_store on conversations (store_id);

-- What new ids are drawn from: above what people choose by hand, so that they seldom meet.
create sequence generated_conversation_ids as integer start 1000000001;
create sequence generated_chat_ids start 1000000000001;

-- Every chat ever accepted. Never updated.
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
    release_at timestamptz,                   -- the opening it was held for when accepted; null: none
    constraint chats_in_order unique (conversation_id, seq),
    constraint chats_chat_id check (chat_id between 1 and 9007199254740992),  -- 2^53: exact in JSON
    constraint chats_payload check (
        char_length(coalesce(template, payload)) between 1 and 299 and char_length(payload) <= 4000)
);

-- The chats still to be sent, nothing else: one narrow pointer each. No foreign key on purpose: its
-- trigger would cost each enqueue a tenth, and only the functions below write here.
create table chat_queue (
    due_at timestamptz not null,              -- may go from this instant
    held_since timestamptz,                   -- null: never held, or retried
    chat_id bigint not null,
    conversation_id integer not null,
    seq integer not null,
    store_id integer not null,
    primary key (conversation_id, seq)
) with (
    -- A hot table: rows live for milliseconds. Vacuum by count, not by share, and without pauses; no
    -- truncation, which would lock the table at its quietest moment.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000, vacuum_truncate = off
);
-- The claim is exactly one range of this index. Ties go by seq, never by the caller's chat_id: so the
-- order agrees with each conversation's, and at an opening every conversation's first chat goes first.
create index chat_queue_due on chat_queue (due_at, seq);

-- What was sent, in the order of sending. position has no gaps and is commit order (it is given under
-- the sender's lock), so a reader at position n has seen everything below n. Append only.
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

-- Up to which chat each party has read; never goes back.
create table read_marks (
    conversation_id integer not null references conversations on delete cascade,
    reader text not null check (reader in ('client', 'operator')),
    seq integer not null,
    primary key (conversation_id, reader)
) with (fillfactor = 70);


-- Opening hours -------------------------------------------------------------------------------------

-- The store's open spans that begin from the day before `first_day` to `last_day`, days of its own zone.
-- A daily span for now; weekly spans and dated exceptions belong here and nowhere else. A span that a
-- clock change leaves empty or reversed is no span.
create function opening_spans(store_id integer, first_day date, last_day date)
returns table (opens_at timestamptz, closes_at timestamptz)
language sql stable as $$
    select (day + s.opens) at time zone s.timezone,
           (day + s.closes + case when s.closes <= s.opens then interval '1 day' else '0' end)
               at time zone s.timezone
      from stores s,
           generate_series((first_day - 1)::timestamp, last_day::timestamp, interval '1 day') as day
     where s.store_id = opening_spans.store_id
       and (day + s.opens) at time zone s.timezone
         < (day + s.closes + case when s.closes <= s.opens then interval '1 day' else '0' end)
               at time zone s.timezone
$$;

-- The opening period that decides at the instant `at`: the store is closed in [closed_since, opens_at)
-- and open in [opens_at, closes_at), and closed_since <= at < closes_at. A store open round the clock
-- has no bounds.
create function opening_period(
    store_id integer, at timestamptz,
    out closed_since timestamptz, out opens_at timestamptz, out closes_at timestamptz)
language plpgsql stable as $$
declare
    store stores;
    today date;
begin
    select * into strict store from stores s where s.store_id = opening_period.store_id;
    if store.opens = store.closes and store.opens = time '00:00' then
        closed_since := '-infinity'; opens_at := '-infinity'; closes_at := 'infinity';
        return;
    end if;
    today := (at at time zone store.timezone)::date;
    select s.opens_at, s.closes_at into opens_at, closes_at
      from opening_spans(store.store_id, today, today + 3) s
     where s.closes_at > at
     order by s.opens_at limit 1;
    select coalesce(max(s.closes_at), '-infinity') into closed_since
      from opening_spans(store.store_id, today - 3, today) s
     where s.closes_at <= at;
end $$;

-- When a chat of the store that arrives at the instant `at` may go: null when it is open, otherwise its
-- next opening. Both ends count as one would say them: open at 09:00:00 sharp, closed at 14:00:00 sharp.
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

-- Brings the looked-up opening periods up to the instant `at`. Never waits: a store whose row somebody has
-- locked stays as it is, and its chats wait (put_back), not everybody's.
create function refresh_opening_periods(at timestamptz) returns void
language sql volatile set enable_seqscan = off as $$
    update stores s
       set (closed_since, opens_at, closes_at) = (select p.* from opening_period(s.store_id, at) p)
     where s.store_id in (select store_id from stores
                           where store_id in (select store_id from stores where closes_at <= at
                                              union all select store_id from stores where closed_since > at)
                             for update skip locked)
$$;

-- Changed hours make the looked-up period worthless.
create function forget_opening_period() returns trigger
language plpgsql as $$
begin
    new.closed_since := '-infinity'; new.opens_at := '-infinity'; new.closes_at := '-infinity';
    return new;
end $$;
create trigger stores_hours_changed before update of timezone, opens, closes on stores
    for each row execute function forget_opening_period();

-- And what is held gets the instant that the new hours say, now where they say that the store is open.
create function move_held() returns trigger
language plpgsql as $$
declare
    at timestamptz := shoptalk_now();
begin
    update chat_queue q set due_at = coalesce(release_at(new.store_id, at), at)
     where q.store_id = new.store_id and q.held_since is not null and q.due_at > at;
    perform pg_notify('chat_queued', '');
    return null;
end $$;
create trigger stores_hours_move_held after update of timezone, opens, closes on stores
    for each row execute function move_held();

-- The schedule's step: rings for the workers, whose claim releases and takes back what is due, and says
-- how many seconds it is until the next opening or closing. Harmless when missed, doubled or late.
create function keep_hours() returns double precision
language plpgsql volatile set enable_seqscan = off as $$
declare
    at timestamptz;
begin
    perform pg_advisory_xact_lock(sender_lock());
    at := shoptalk_now();
    perform refresh_opening_periods(at);
    perform pg_notify('chat_queued', '');
    return extract(epoch from least(
        (select min(opens_at) from stores where opens_at > at),
        (select min(closes_at) from stores where closes_at > at),
        at + interval '1 day') - at);
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
            c.release_at, true);
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

-- Accepts one chat in the caller's transaction; the very function that REST uses. conversation_id null:
-- a new conversation; chat_id null: a new id. The same chat_id with the same content again answers what
-- the first call answered and adds nothing.
--
-- Raises ST404 (unknown client or operator) and ST409 (the chat_id has other content, the conversation
-- other parties), with the field in COLUMN; 23514 for values out of range.
create function enqueue_chat(
    conversation_id integer, client_id integer, operator_id integer, payload text,
    sender text default 'client', chat_id bigint default null) returns enqueued_chat
language plpgsql volatile set enable_seqscan = off as $$
#variable_conflict use_variable
declare
    replay enqueued_chat;
    conversation conversations;
    rendered text := payload;
    at timestamptz;
    held_until timestamptz;
    new_id bigint;
begin
    if chat_id is not null then
        replay := replay_chat(conversation_id, client_id, operator_id, payload, sender, chat_id);
        if replay.replayed then
            return replay;
        end if;
    end if;
    conversation := next_in_conversation(conversation_id, client_id, operator_id);
    -- After the conversation's lock: its chats' instants then follow their seq as long as the clock does.
    at := shoptalk_now();
    held_until := release_at(conversation.store_id, at);
    if payload like '%{{%' then
        select fill_placeholders(payload, c.username, o.operator_name) into rendered
          from clients c, operators o
         where c.client_id = conversation.client_id and o.operator_id = conversation.operator_id;
    end if;
    loop
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id,
                           created_at, template, release_at)
        values (coalesce(chat_id, nextval('generated_chat_ids')), conversation.conversation_id,
                conversation.last_seq, sender, rendered, client_id, operator_id,
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
    insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)
    values (coalesce(held_until, at), case when held_until is not null then at end,
            new_id, conversation.conversation_id, conversation.last_seq, conversation.store_id);
    return (new_id, conversation.conversation_id, conversation.last_seq, sender, rendered,
            client_id, operator_id, at,
            case when held_until is null then 'queued' else 'held' end, held_until, false);
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
    payload text, sender text, chat_id bigint, place bigint
);

-- The conversations of the list whose chats can be accepted all at once: it is there, its parties are the
-- chats' own, and no chat needs a second look (a placeholder, an id that may be a replay).
create function plain_conversations(items chat_item[]) returns integer[]
language sql stable set enable_seqscan = off as $$
    select array_agg(conversation_id)
      from (select i.conversation_id
              from unnest(items) i join conversations c using (conversation_id)
             group by i.conversation_id
            having bool_and(i.client_id = c.client_id and i.operator_id = c.operator_id
                            and i.payload not like '%{{%'
                            and not exists (select from chats where chats.chat_id = i.chat_id))) plain
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
                       case when held_until is null then 'queued' else 'held' end, held_until, false
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
    payloads text[], senders text[], chat_ids bigint[]) returns setof enqueued_item
language plpgsql volatile as $$
declare
    items chat_item[];
    plain integer[];
    done enqueued_item[];
    item record;
    answer enqueued_item;
begin
    select array_agg(i::chat_item) into items
      from unnest(conversation_ids, client_ids, operator_ids, payloads, senders, chat_ids) with ordinality
           as i(conversation_id, client_id, operator_id, payload, sender, chat_id, place);
    if (select count(*) from conversations c where c.conversation_id = any (conversation_ids))
       = (select count(distinct id) from unnest(conversation_ids) id) then
        perform from conversations c where c.conversation_id = any (conversation_ids)
          order by c.conversation_id for update;
        plain := plain_conversations(items);
        begin
            done := enqueue_plain(items, plain, shoptalk_now());
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
                                        item.payload, item.sender, item.chat_id);
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

create type send_report as (
    claimed integer,          -- pointers claimed
    sent integer,             -- of them, moved to the log
    failed integer,           -- of them, whose sending raised (retried later, or dead-lettered)
    last_due_at timestamptz,  -- of the claimed; null when there were none
    below_floor boolean       -- a chat waits for an earlier one that is due below due_from
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
-- chosen: the one pointer to claim, locked by the caller; null: whichever are due.
-- waiting_*: conversation_id and seq of what was claimed and may not go; null when all may.
create function send_claimed(
    batch_size integer, due_from timestamptz, at timestamptz, chosen tid,
    out claimed integer, out sent integer, out last_due_at timestamptz,
    out waiting_conversations integer[], out waiting_seqs integer[])
language plpgsql volatile as $$
begin
    with claimed as materialized (
        select q.ctid as pointer, q.*
          from chat_queue q
         where q.due_at >= due_from and q.due_at <= at and (chosen is null or q.ctid = chosen)
         order by q.due_at, q.seq
         limit batch_size
           for update skip locked
    ), neighbours as (
        select c.*, coalesce(lag(c.seq) over (partition by c.conversation_id order by c.seq), 0) as before
          from claimed c
    ), judged as materialized (
        select n.*, max(n.due_at) over earlier as goes_at, bool_and(
                   at >= s.opens_at and at < s.closes_at
                   and (n.before = n.seq - 1
                        or coalesce((select true from sent_log l
                                      where l.conversation_id = n.conversation_id and l.seq = n.seq - 1 limit 1),
                                    (select false from chat_queue p
                                      where p.conversation_id = n.conversation_id
                                        and p.seq > n.before and p.seq < n.seq limit 1),
                                    true))
               ) over earlier as may_go
          from neighbours n join stores s using (store_id)
        window earlier as (partition by n.conversation_id order by n.seq)
    ), acked as (
        delete from chat_queue q using judged j where j.may_go and q.ctid = j.pointer
    ), logged as (
        insert into sent_log (position, chat_id, conversation_id, seq, sent_at)
        select coalesce((select max(position) from sent_log), 0) + row_number() over (order by goes_at, seq),
               chat_id, conversation_id, seq, at
          from judged where may_go
    )
    select count(*), count(*) filter (where may_go), max(due_at),
           array_agg(conversation_id) filter (where not may_go), array_agg(seq) filter (where not may_go)
      into claimed, sent, last_due_at, waiting_conversations, waiting_seqs
      from judged;
end $$;

-- Gives claimed pointers that may not go the instant from which they may: the store's next opening when
-- it is closed (the chat is held, or taken back), otherwise the instant of the earlier chat they wait
-- for. Followers of a pointer that somebody keeps locked look again in a second and then seldomer, lest a
-- batch of them stand in front of all others for ever, or be rewritten for ever; and so do the chats of a
-- store whose opening period could not be looked up because its row is locked. Returns whether the one waited for is due below due_from: then
-- nothing is moved, and the next claim must start from the very beginning.
create function put_back(
    conversation_ids integer[], seqs integer[], due_from timestamptz, at timestamptz) returns boolean
language plpgsql volatile as $$
declare
    below_floor boolean;
begin
    with waiting as (
        select conversation_id, min(seq) as first_seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
         group by conversation_id
    ), judged as materialized (
        select w.*, s.opens_at, at < s.opens_at as closed, b.due_at, b.held_since,
               at >= s.closes_at or at < s.closed_since as unknown
          from waiting w
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.first_seq
          join stores s on s.store_id = q.store_id
          left join lateral (select p.due_at, p.held_since
                               from chat_queue p
                              where p.conversation_id = w.conversation_id and p.seq < w.first_seq
                              order by p.seq limit 1) b on true
    ), moved as (
        update chat_queue q
           set due_at = case when j.unknown then at + interval '1 second'
                             when j.closed then j.opens_at
                             when j.due_at > at then j.due_at
                             else at + greatest('1 second', least('30 seconds', (at - j.due_at) / 4)) end,
               held_since = case when not j.unknown and (j.closed or j.due_at > at and j.held_since is not null)
                                 then at end
          from unnest(conversation_ids, seqs) as w(conversation_id, seq), judged j
         where j.conversation_id = w.conversation_id
           and q.conversation_id = w.conversation_id and q.seq = w.seq
           and (j.closed or j.unknown or j.due_at >= due_from)
    )
    select coalesce(bool_or(not closed and not unknown and due_at < put_back.due_from), false) into below_floor from judged;
    return below_floor;
end $$;

create function send_batch(batch_size integer, due_from timestamptz, at timestamptz, chosen tid)
returns send_report
language plpgsql volatile as $$
declare
    claim record;
    report send_report;
begin
    select * into claim from send_claimed(batch_size, due_from, at, chosen);
    report := (claim.claimed, claim.sent, 0, claim.last_due_at, false);
    if claim.waiting_seqs is not null then
        report.below_floor := put_back(claim.waiting_conversations, claim.waiting_seqs, due_from, at);
    end if;
    return report;
end $$;

-- Backoff: 1, 2, 4, 8 seconds; the fifth failure makes a dead letter. Only this chat's conversation
-- waits, because put_back() gives its followers this pointer's instant.
create function record_failure(pointer chat_queue, reason text, at timestamptz) returns void
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
end $$;

-- A batch; and where it raises, its halves, down to the culprits, so that the rest goes. Each attempt is a
-- subtransaction of its own. One chat alone is chosen and locked first, so that it is the one blamed.
create function send_carefully(batch_size integer, due_from timestamptz, at timestamptz) returns send_report
language plpgsql volatile as $$
declare
    half integer := batch_size / 2;
    pointer chat_queue;
    chosen tid;
    reason text;
    first_half send_report;
    second_half send_report;
begin
    if batch_size = 1 then
        select q.*, q.ctid into pointer.due_at, pointer.held_since, pointer.chat_id, pointer.conversation_id,
                                pointer.seq, pointer.store_id, chosen
          from chat_queue q
         where q.due_at >= due_from and q.due_at <= at
         order by q.due_at, q.seq
         limit 1
           for update skip locked;
    end if;
    begin
        return send_batch(batch_size, due_from, at, chosen);
    exception when others then
        if is_trouble_of_the_server(sqlstate) then
            raise;
        end if;
        reason := sqlstate || ': ' || sqlerrm;
    end;
    if batch_size = 1 then
        perform record_failure(pointer, reason, at);
        return (1, 0, 1, pointer.due_at, false);
    end if;
    first_half := send_carefully(half, due_from, at);
    if first_half.below_floor or first_half.claimed < half then
        return first_half;
    end if;
    second_half := send_carefully(batch_size - half, due_from, at);
    return (first_half.claimed + second_half.claimed, first_half.sent + second_half.sent,
            first_half.failed + second_half.failed,
            coalesce(second_half.last_due_at, first_half.last_due_at), second_half.below_floor);
end $$;

-- Sends the next due chats, at most batch_size of them, in one short transaction: claim, write to the
-- log, delete the pointers, ring. Run it from as many workers as you like: one at a time gets the lock,
-- and the others are answered null and stand by. (Waiting for the lock in turn, they handed it over after
-- every batch, which was slower than one worker alone.) due_from spares the claim the dead rows in front;
-- a chat due before it waits until somebody asks from '-infinity'.
--
-- The settings pin the plan to index scans, whatever the statistics say: a plan made for an empty table
-- stands still on a full one until the next ANALYZE. And they keep it: planning anew took a tenth of a batch.
create function send_chats(batch_size integer default 500, due_from timestamptz default '-infinity')
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
    report := send_carefully(batch_size, due_from, at);
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

-- Gives a dead letter its attempts again. It goes as soon as its store is open, after whatever of its
-- conversation went meanwhile. Raises ST404 for a chat that does not exist, ST409 for one not failed.
create function requeue_chat(chat_id bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    chat chats;
    store integer;
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
    select c.store_id into store from conversations c where c.conversation_id = chat.conversation_id;
    insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)
    select coalesce(opening, at), case when opening is not null then at end,
           chat.chat_id, chat.conversation_id, chat.seq, store
      from release_at(store, at) opening;
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
            using errcode = '22003', column = 'seq';
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


-- Looking: views for people -----------------------------------------------------------------------------

-- Every chat with its state. release_at: for a held chat, when it may go.
create view chat_states as
    select c.chat_id, c.conversation_id, c.seq,
           case when x.chat_id is not null then 'cancelled'
                when f.chat_id is not null then 'failed'
                when q.chat_id is null then 'sent'
                when q.held_since is not null and q.due_at > shoptalk_now() then 'held'
                else 'queued' end as state,
           case when q.held_since is not null and q.due_at > shoptalk_now() then q.due_at end as release_at,
           l.sent_at
      from chats c
      left join chat_queue q on q.conversation_id = c.conversation_id and q.seq = c.seq
      left join cancelled_chats x on x.chat_id = c.chat_id
      left join chat_failures f on f.chat_id = c.chat_id and f.dead_at is not null
      left join sent_log l on l.conversation_id = c.conversation_id and l.seq = c.seq;

-- One row a state. oldest: since when the chat that is longest in this state has been in it (of sent:
-- when the first was sent). The sent are not counted but read off the log's last position.
create view queue_status as
    with waiting as (
        select count(*) filter (where is_held) as held,
               min(held_since) filter (where is_held) as oldest_held,
               min(due_at) filter (where is_held) as next_release,
               count(*) filter (where not is_held) as queued,
               min(due_at) filter (where not is_held) as oldest_queued
          from chat_queue, lateral (select shoptalk_now() as at) clock,
               lateral (select held_since is not null and due_at > at as is_held) h
    )
    select 'held' as state, held as chats, oldest_held as oldest, next_release from waiting
    union all
    select 'queued', queued, oldest_queued, null from waiting
    union all
    select 'sent', coalesce((select max(position) from sent_log), 0),
           (select sent_at from sent_log order by position limit 1), null
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
    sent bigint not null                      -- ever; the rate is the difference of two
);

-- Takes the sample of this moment, unless another worker has, and forgets what is older than a day.
create function sample_queue() returns void
language plpgsql volatile as $$
declare
    slot timestamptz := date_bin('30 seconds', shoptalk_now(), '2000-01-01');
begin
    if exists (select from queue_samples s where s.at = slot) then
        return;
    end if;
    insert into queue_samples (at, held, queued, failed, sent)
    select slot, sum(chats) filter (where state = 'held'), sum(chats) filter (where state = 'queued'),
           sum(chats) filter (where state = 'failed'), sum(chats) filter (where state = 'sent')
      from queue_status
    on conflict do nothing;
    delete from queue_samples s where s.at < slot - interval '24 hours';
end $$;
