-- Opening hours: when a store is open, when a chat is due by its hours, and how held chats follow a change of hours.

-- Adds a store that is open every day; does nothing if the store exists.
create or replace function add_store(
    store_id integer, timezone text default 'UTC', opens time default '09:00', closes time default '14:00')
returns void language sql volatile as $$
    with added as (
        insert into stores as s (store_id, timezone) values (add_store.store_id, add_store.timezone)
        on conflict do nothing
        returning s.store_id
    )
    insert into store_hours select a.store_id, d.weekday, add_store.opens, add_store.closes
      from added a, generate_series(1, 7) d(weekday)
$$;

-- A span of wall-clock time that begins on a day, as instants. By PostgreSQL's own rule, a time that a clock change
-- skips is read by the clock from before it (02:30 is then what the new clock calls 03:30), and of a time that it
-- repeats the second one counts. Empty where that leaves no time, or reverses the span.
create or replace function span_range(day date, opens time, closes time, timezone text) returns tstzrange
language sql immutable as $$
    select case when starts < ends then tstzrange(starts, ends) else 'empty' end
      from (select (day + opens) at time zone timezone as starts,
                   (day + closes + case when closes <= opens then interval '1 day' else '0' end)
                       at time zone timezone as ends) instants
$$;

-- The days from first_day to last_day, each with its exception in the store, if it has one.
create or replace function days_of(store_id integer, first_day date, last_day date)
returns table (day date, exception_date date, yearly boolean, name text)
language sql stable as $$
    select d.day, coalesce(once.date, each.date), once.date is null and each.date is not null,
           case when once.date is null then each.name else once.name end
      from (select t::date as day,
                   make_date(2000, extract(month from t)::integer, extract(day from t)::integer) as in_2000
              from generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') t) d
      left join store_exceptions once on once.store_id = days_of.store_id and once.date = d.day and not once.yearly
      left join store_exceptions each on each.store_id = days_of.store_id and each.date = d.in_2000 and each.yearly
$$;

-- The store's spans that begin on those days, which are days of its own zone: the exception's, or else the weekday's. A
-- paused store has none. The only code that interprets hours; everything else asks open_ranges().
create or replace function opening_spans(store_id integer, first_day date, last_day date)
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
               select es.opens, es.closes from store_exception_spans es
                where es.store_id = s.store_id and es.date = d.exception_date and es.yearly = d.yearly) t
     where s.store_id = opening_spans.store_id and s.paused_at is null
$$;

-- When the store is open within those days, from the first day's midnight to the last day's. Spans that touch or
-- overlap become one. It looks two days further back, because a span can run past midnight, and a zone that moves
-- across the date line skips a day. In plpgsql, which keeps its plans.
create or replace function open_ranges(store_id integer, first_day date, last_day date) returns tstzmultirange
language plpgsql stable as $$
declare
    zone text := (select s.timezone from stores s where s.store_id = open_ranges.store_id);
    starts timestamptz := first_day::timestamp at time zone zone;
    ends timestamptz := (last_day + 1)::timestamp at time zone zone;
begin
    return coalesce((select range_agg(t.span) from opening_spans(open_ranges.store_id, first_day - 2, last_day) t), '{}')
           * tstzmultirange(tstzrange(starts, ends));
end $$;

-- The opening period that decides at the instant `at`: the store is closed in [closed_since, opens_at) and open in
-- [opens_at, closes_at), and closed_since <= at < closes_at. Infinite where there is no such change within eight years
-- each way (a yearly exception on 29 February can be that far away). A store without exceptions repeats itself within a
-- year, so a year is enough.
create or replace function opening_period(
    store_id integer, at timestamptz,
    out closed_since timestamptz, out opens_at timestamptz, out closes_at timestamptz)
language plpgsql stable as $$
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
    -- An end that only the window cuts off is not a change.
    closed_since := coalesce(closed_since, '-infinity');
    opens_at := case when opens_at = first_at then '-infinity' else coalesce(opens_at, 'infinity') end;
    closes_at := case when closes_at < end_at then closes_at else 'infinity' end;
end $$;

-- When a chat of the store that arrives at the instant `at` is due: null if the store is open, otherwise its next
-- opening, or 'infinity' if it has none. Both ends as people read them: open from 09:00:00 sharp, closed from 14:00:00
-- sharp.
create or replace function next_release(store_id integer, at timestamptz) returns timestamptz
language plpgsql stable as $$
declare
    store stores;
    opening timestamptz;
begin
    if at = 'infinity' then
        return at;  -- of a store that is paused or never opens; the calendar would be searched without end
    end if;
    select * into strict store from stores s where s.store_id = next_release.store_id;
    if at >= store.closed_since and at < store.closes_at then
        opening := store.opens_at;
    else
        opening := (opening_period(store.store_id, at)).opens_at;
    end if;
    return case when opening > at then opening end;
end $$;

-- The client's quiet hours that begin on those days, which are days of the client's own zone.
create or replace function quiet_ranges(client_id integer, first_day date, last_day date) returns tstzmultirange
language sql stable as $$
    select coalesce(range_agg(span_range(d::date, qh.starts, qh.ends, qh.timezone)), '{}')
      from quiet_hours qh, generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') d
     where qh.client_id = quiet_ranges.client_id
$$;

create or replace function is_quiet(client_id integer, at timestamptz) returns boolean
language sql stable as $$
    select at <@ quiet_ranges(is_quiet.client_id, (at at time zone 'UTC')::date - 3, (at at time zone 'UTC')::date + 1)
$$;

-- The same for a chat that also waits for the client's quiet hours to end; client_id null: for no client's. 'infinity'
-- where the store is not open outside the client's quiet hours within a year.
create or replace function next_release(store_id integer, client_id integer, at timestamptz) returns timestamptz
language plpgsql stable as $$
declare
    opening timestamptz := next_release(store_id, at);
    today date := (at at time zone 'UTC')::date;
    days integer;
begin
    if at = 'infinity' then
        return at;
    end if;
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

-- Takes the next free instant from `earliest` on at the store's pace, and returns it; `earliest` where the store has no
-- pace. Never past a closing: then it is at the next opening. Locks the pace, and waits for a session that has it
-- locked.
create or replace function take_slot(store_id integer, earliest timestamptz) returns timestamptz
language plpgsql volatile as $$
declare
    pace store_paces;
    slot timestamptz;
begin
    select * into pace from store_paces p where p.store_id = take_slot.store_id for update;
    if not found or earliest = 'infinity' then
        return earliest;
    end if;
    slot := greatest(earliest, pace.next_at);
    slot := coalesce(next_release(store_id, slot), slot);
    update store_paces p set next_at = slot + interval '1 minute' / pace.per_minute
     where p.store_id = take_slot.store_id and slot < 'infinity';
    return slot;
end $$;

-- Until when a chat that is accepted at the instant `at` is held (null: not at all), and from when its queue row is
-- due. While another session changes the store's hours, whose outcome is not visible yet, the row is due at once: so
-- the claim decides, by the new hours. Otherwise this transaction shares the hours' lock, and a session that wants to
-- change them waits for it to end, then sees the row and moves it.
create or replace function hold_until(
    store_id integer, client_id integer, at timestamptz, out held_until timestamptz, out due_at timestamptz)
language plpgsql volatile as $$
begin
    due_at := at;
    if pg_try_advisory_xact_lock_shared(hours_lock(), store_id & 63) then
        held_until := next_release(store_id, client_id, at);
        if held_until is not null then
            held_until := take_slot(store_id, held_until);
            if client_id is not null then
                held_until := coalesce(next_release(store_id, client_id, held_until), held_until);
            end if;
            due_at := held_until;
        end if;
    else
        held_until := next_release(store_id, client_id, at);
    end if;
end $$;

-- Looks up the store's opening period and caches it in the store's row.
create or replace function cache_opening_period(store_id integer, at timestamptz) returns void
language sql volatile as $$
    update stores s
       set (closed_since, opens_at, closes_at) = (select period.* from opening_period(s.store_id, at) period),
           looked_up_at = at
     where s.store_id = cache_opening_period.store_id
$$;

-- Brings the cached opening periods up to the instant `at`. Never waits: a store whose row another session has locked
-- stays as it is, and only its own chats wait (see defer_closed()). At most 500 stores at once, so that sending does
-- not stand still where thousands of stores close on the hour: the next claim does the rest.
create or replace function refresh_opening_periods(at timestamptz) returns void
language sql volatile set enable_seqscan = off as $$
    select cache_opening_period(outdated.store_id, at)
      from (select s.store_id from stores s
             where s.store_id in (select s.store_id from stores s where s.closes_at <= at
                                  union all select s.store_id from stores s where s.closed_since > at)
             limit 500 for update skip locked) outdated
$$;

-- A paced store's open ranges from the instant `at` on, each with the chats that it has room for, one per `step`: range
-- i begins at starts[i] and takes the chats from number first_chats[i] on. One more element, at 'infinity', takes those
-- after the last range.
create or replace function paced_ranges(
    store_id integer, step interval, at timestamptz, out starts timestamptz[], out first_chats bigint[])
language plpgsql stable as $$
declare
    today date := (select (at at time zone s.timezone)::date from stores s where s.store_id = paced_ranges.store_id);
begin
    with ranges as (
        select lower(r) as opens,
               ceil(extract(epoch from upper(r) - lower(r)) / extract(epoch from step))::bigint as room
          from unnest(open_ranges(paced_ranges.store_id, today, today + 3000) * tstzmultirange(tstzrange(at, null))) r
    ), numbered as (
        select r.opens, r.room, (sum(r.room) over (order by r.opens))::bigint - r.room as first_chat from ranges r
    )
    select array_agg(n.opens order by n.opens) || timestamptz 'infinity',
           array_agg(n.first_chat order by n.opens) || coalesce(sum(n.room), 0)::bigint
      into starts, first_chats
      from numbered n;
end $$;

-- When the store's held chat with that number, from 0, is due in these ranges.
create or replace function paced_slot(number bigint, step interval, starts timestamptz[], first_chats bigint[])
returns timestamptz language sql stable as $$
    select starts[width_bucket(number, first_chats)] + (number - first_chats[width_bucket(number, first_chats)]) * step
$$;

-- Moves the store's held chats to the instants that its hours give them now: all to the next opening, or at its pace
-- from there on, in the order that they have. Returns how many chats move, and between which instants; with dry_run
-- that is all.
create or replace function reschedule_held(
    store_id integer, at timestamptz, dry_run boolean default false,
    out moved integer, out from_first timestamptz, out from_last timestamptz,
    out to_first timestamptz, out to_last timestamptz)
language plpgsql volatile as $$
declare
    opening timestamptz := coalesce(next_release(store_id, at), at);
    step interval := (
        select interval '1 minute' / p.per_minute from store_paces p where p.store_id = reschedule_held.store_id);
    starts timestamptz[];
    first_chats bigint[];
    last_slot timestamptz;
begin
    if step is not null then
        select r.starts, r.first_chats into starts, first_chats from paced_ranges(store_id, step, at) r;
    end if;
    with held as materialized (
        select q.conversation_id, q.seq, q.quiet_for, q.due_at,
               row_number() over (order by q.due_at, q.seq) - 1 as number
          from chat_queue q
         where q.store_id = reschedule_held.store_id and q.held_since is not null and q.due_at > at
           and not q.any_hour and not q.paused
    ), slotted as (
        select h.*, case when step is null then opening else paced_slot(h.number, step, starts, first_chats) end as slot
          from held h
    ), planned as materialized (
        select h.*,
               case when h.quiet_for is null then h.slot
                    else coalesce(next_release(reschedule_held.store_id, h.quiet_for, h.slot), h.slot) end as new_due_at
          from slotted h
    ), updated as (
        update chat_queue q set due_at = h.new_due_at from planned h
         where not dry_run and h.new_due_at <> h.due_at and q.conversation_id = h.conversation_id and q.seq = h.seq
    )
    select count(*) filter (where h.new_due_at <> h.due_at),
           min(h.due_at) filter (where h.new_due_at <> h.due_at), max(h.due_at) filter (where h.new_due_at <> h.due_at),
           min(h.new_due_at) filter (where h.new_due_at <> h.due_at),
           max(h.new_due_at) filter (where h.new_due_at <> h.due_at),
           max(h.slot) filter (where h.slot < 'infinity')
      into moved, from_first, from_last, to_first, to_last, last_slot
      from planned h;
    if not dry_run then
        update store_paces p set next_at = coalesce(last_slot + step, '-infinity')
         where p.store_id = reschedule_held.store_id;
        perform pg_notify('chat_queued', '');
        perform tell_waiting_changed('store_id', store_id);
    end if;
end $$;

-- A change of hours drops the cached opening period at once …
create or replace function forget_opening_period() returns trigger
language plpgsql as $$
declare
    changed record := case when tg_op = 'DELETE' then old else new end;
begin
    if tg_table_name = 'stores' then
        new.closed_since := '-infinity'; new.opens_at := '-infinity'; new.closes_at := '-infinity';
        return new;
    end if;
    update stores s set (closed_since, opens_at, closes_at) = row ('-infinity', '-infinity', '-infinity')
     where s.store_id = changed.store_id;
    return null;
end $$;

-- … and held chats move before the change is committed. Once, however many rows the change had: the first call looks up
-- the period, and the others find it there.
create or replace function hours_changed() returns trigger
language plpgsql as $$
declare
    at timestamptz := shoptalk_now();
begin
    if exists (select from stores s where s.store_id = new.store_id and s.closes_at = '-infinity') then
        perform pg_advisory_xact_lock(hours_lock(), new.store_id & 63);
        perform cache_opening_period(new.store_id, at);
        perform reschedule_held(new.store_id, at);
    end if;
    return null;
end $$;

-- One step of the schedule: notifies the workers, whose claim releases due chats and defers chats of closed stores, and
-- returns how many seconds it is until the next opening or closing. Harmless when missed, repeated or late. Once a day
-- it looks up each store again, and moves its held chats if the answer differs, because the rules of time zones change
-- too. Returns 0 where it has moved chats: another store may need it.
create or replace function keep_hours() returns double precision
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
        select * from stores s
         where s.looked_up_at < at - interval '1 day' and pg_try_advisory_xact_lock(hours_lock(), s.store_id & 63)
         limit 100 for update skip locked
    loop
        perform cache_opening_period(store.store_id, at);
        if at >= store.closed_since and at < store.closes_at
           and exists (select from stores s where s.store_id = store.store_id and s.opens_at <> store.opens_at) then
            perform reschedule_held(store.store_id, at);
            moved := true;
            exit;  -- one store per transaction, since nothing is sent meanwhile
        end if;
    end loop;
    perform pg_notify('chat_queued', '');
    return case when moved then 0 else extract(epoch from least(
        (select min(s.opens_at) from stores s where s.opens_at > at),
        (select min(s.closes_at) from stores s where s.closes_at > at),
        at + interval '1 day') - at) end;
end $$;
