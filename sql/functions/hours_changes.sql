-- Changing hours: a store's hours read, replaced and explained, and a client's quiet hours set.

create or replace function weekdays() returns text[] language sql immutable as $$
    select array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']
$$;

-- A span as REST returns it, ["09:00", "14:00"].
create or replace function span_json(opens time, closes time) returns json language sql stable as $$
    select json_build_array(to_char(opens, 'HH24:MI'), to_char(closes, 'HH24:MI'))
$$;

-- A store's hours as REST returns and accepts them; members that are not set are left out.
create or replace function hours_of(store_id integer) returns json
language sql stable as $$
    select json_strip_nulls(json_build_object(
        'timezone', s.timezone,
        'weekly', (select json_object_agg(d.name, d.spans order by d.weekday)
                     from (select w.weekday, w.name,
                                  coalesce(json_agg(span_json(h.opens, h.closes) order by h.opens)
                                           filter (where h.opens is not null), '[]') as spans
                             from unnest(weekdays()) with ordinality as w(name, weekday)
                             left join store_hours h on h.store_id = s.store_id and h.weekday = w.weekday
                            group by w.weekday, w.name) d),
        'exceptions', (select coalesce(json_agg(json_build_object(
                                  'date', case when not e.yearly then e.date end,
                                  'yearly', case when e.yearly then to_char(e.date, 'MM-DD') end,
                                  'name', e.name,
                                  'spans', (
                                      select coalesce(json_agg(span_json(es.opens, es.closes) order by es.opens), '[]')
                                        from store_exception_spans es
                                       where es.store_id = e.store_id and es.date = e.date and es.yearly = e.yearly))
                                  order by e.yearly, e.date), '[]')
                         from store_exceptions e where e.store_id = s.store_id),
        'pace_per_minute', (select p.per_minute from store_paces p where p.store_id = s.store_id),
        'away_notice', s.away_notice,
        'urgent', nullif(s.urgent_for, '{}')))
      from stores s where s.store_id = hours_of.store_id
$$;

-- The date under which store_exceptions keeps an exception of such a document.
create or replace function exception_date(exception json) returns date language sql stable as $$
    select coalesce((exception->>'date')::date, ('2000-' || (exception->>'yearly'))::date)
$$;

-- Replaces the store's hours by such a document. Raises ST404 for an unknown store, 22023 for an unknown time zone.
create or replace function write_hours(store_id integer, hours json) returns void
language plpgsql volatile as $$
begin
    update stores s
       set timezone = hours->>'timezone', away_notice = hours->>'away_notice',
           urgent_for = array(
               select json_array_elements_text(hours->'urgent') where json_typeof(hours->'urgent') = 'array')
     where s.store_id = write_hours.store_id;
    if not found then
        perform refuse_unknown('store', store_id);
    end if;
    delete from store_hours h where h.store_id = write_hours.store_id;
    insert into store_hours (store_id, weekday, opens, closes)
    select write_hours.store_id, w.weekday, (t.span->>0)::time, (t.span->>1)::time
      from unnest(weekdays()) with ordinality as w(name, weekday),
           json_array_elements(hours->'weekly'->w.name) t(span);
    delete from store_exceptions e where e.store_id = write_hours.store_id;
    insert into store_exceptions (store_id, date, yearly, name)
    select write_hours.store_id, exception_date(t.exception), t.exception->>'date' is null, t.exception->>'name'
      from json_array_elements(hours->'exceptions') t(exception);
    insert into store_exception_spans (store_id, date, yearly, opens, closes)
    select write_hours.store_id, exception_date(t.exception), t.exception->>'date' is null,
           (u.span->>0)::time, (u.span->>1)::time
      from json_array_elements(hours->'exceptions') t(exception), json_array_elements(t.exception->'spans') u(span);
    if hours->>'pace_per_minute' is null then
        delete from store_paces p where p.store_id = write_hours.store_id;
    else
        insert into store_paces as p (store_id, per_minute)
        values (write_hours.store_id, (hours->>'pace_per_minute')::integer)
        on conflict on constraint store_paces_pkey do update set per_minute = excluded.per_minute;
    end if;
end $$;

-- Replaces a store's hours and moves its held chats, in the caller's transaction. With dry_run it does the same, except
-- for writing the queue rows, and undoes it. Raises what write_hours() raises. Locks the hours of the store.
create or replace function change_hours(store_id integer, hours json, dry_run boolean default false)
returns hours_change language plpgsql volatile as $$
declare
    at timestamptz;
    held record;
    change hours_change;
begin
    -- A transaction that holds a chat meanwhile either ends before this goes on, or leaves the chat to the claim: see
    -- hold_until().
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    begin
        perform write_hours(store_id, hours);
        perform cache_opening_period(store_id, at);
        select * into held from reschedule_held(change_hours.store_id, at, dry_run);
        change := (hours_of(store_id), held.moved,
                   nullif(held.from_first, 'infinity'), nullif(held.from_last, 'infinity'),
                   nullif(held.to_first, 'infinity'), nullif(held.to_last, 'infinity'));
        if dry_run then
            raise 'undo' using errcode = 'ST001';  -- not 'ST000': a handler for that catches every 'ST…'
        end if;
    exception when sqlstate 'ST001' then
        null;
    end;
    return change;
end $$;

-- Also closes the store on these days, except where it has an exception for the date already. Moves held chats as
-- change_hours() does.
create or replace function close_on(store_id integer, days date[], names text[], dry_run boolean default false)
returns hours_change language plpgsql volatile as $$
declare
    hours jsonb;
begin
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    hours := hours_of(store_id)::jsonb;
    hours := jsonb_set(hours, '{exceptions}', hours->'exceptions' || (
        select coalesce(jsonb_agg(jsonb_build_object(
                            'date', d.day, 'name', left(d.name, 100), 'spans', '[]'::jsonb)), '[]')
          from unnest(days, names) as d(day, name)
         where not exists (select from store_exceptions e
                            where e.store_id = close_on.store_id and e.date = d.day and not e.yearly)));
    return change_hours(store_id, hours::json, dry_run);
end $$;

-- Why the store is open or closed at the instant `at` (null: now): by which span, of which day, and when that changes.
-- Raises ST404 for an unknown store.
create or replace function explain_hours(store_id integer, at timestamptz default null) returns json
language plpgsql stable as $$
declare
    store stores;
    today date;
    reason record;
    period record;
    next_opening timestamptz;
begin
    at := coalesce(at, shoptalk_now());
    select * into store from stores s where s.store_id = explain_hours.store_id;
    if not found then
        perform refuse_unknown('store', store_id);
    end if;
    today := (at at time zone store.timezone)::date;
    select * into period from opening_period(store.store_id, at);
    select d.*, t.opens, t.closes into reason
      from days_of(store.store_id, today - 2, today) d
      left join opening_spans(store.store_id, today - 2, today) t on t.day = d.day and t.span @> at
     where d.day = today or t.opens is not null
     order by t.opens is null, d.day limit 1;
    next_opening := period.opens_at;
    if at >= period.opens_at then
        next_opening := case when period.closes_at < 'infinity'
                             then (opening_period(store.store_id, period.closes_at)).opens_at end;
    end if;
    return json_build_object(
        'at', at, 'timezone', store.timezone,
        'local_time', to_char(at at time zone store.timezone, 'YYYY-MM-DD"T"HH24:MI:SS'),
        'open', at >= period.opens_at, 'paused_at', store.paused_at,
        'by', json_build_object(
            'day', reason.day, 'weekday', (weekdays())[extract(isodow from reason.day)],
            'exception', case when reason.exception_date is not null then json_strip_nulls(json_build_object(
                'date', case when not reason.yearly then reason.exception_date end,
                'yearly', case when reason.yearly then to_char(reason.exception_date, 'MM-DD') end,
                'name', reason.name)) end,
            'span', case when reason.opens is not null then span_json(reason.opens, reason.closes) end),
        'next_opening', nullif(next_opening, 'infinity'),
        'next_closing', nullif(period.closes_at, 'infinity'));
end $$;

-- Moves the operators' chats that wait for the client to when they are due by the quiet hours that the client has now.
-- quiet_for: the client, or null where the client has no quiet hours any more. A chat that is not quiet any more is due
-- at once, or at its slot where the store keeps a pace.
create or replace function reschedule_for_client(client_id integer, quiet_for integer, at timestamptz) returns void
language plpgsql volatile as $$
begin
    update chat_queue q
       set quiet_for = reschedule_for_client.quiet_for,
           held_since = case when w.opening is not null then coalesce(q.held_since, at) else q.held_since end,
           due_at = case when q.paused then q.due_at
                         when w.opening is not null then w.opening
                         when q.held_since is not null then least(q.due_at, w.earliest) else q.due_at end
      from (select q.conversation_id, q.seq, e.earliest,
                   next_release(q.store_id, reschedule_for_client.quiet_for, e.earliest) as opening
              from conversations cv
              join chat_queue q using (conversation_id)
              join chats ch using (chat_id),
                   lateral (select case when q.store_id in (select p.store_id from store_paces p)
                                        then greatest(q.due_at, at) else at end as earliest) e
             where cv.client_id = reschedule_for_client.client_id and ch.sender = 'operator' and not q.any_hour) w
     where q.conversation_id = w.conversation_id and q.seq = w.seq;
end $$;

-- Sets a client's quiet hours, or removes them (timezone null), and moves the chats that wait for the client. Raises
-- ST404 for an unknown client, 22023 for an unknown time zone. Locks the client, and shares the lock of the hours of
-- the client's stores.
create or replace function set_quiet_hours(client_id integer, timezone text, starts time, ends time) returns void
language plpgsql volatile as $$
declare
    at timestamptz := shoptalk_now();
begin
    perform from clients cl where cl.client_id = set_quiet_hours.client_id for no key update;
    if not found then
        perform refuse_unknown('client', client_id);
    end if;
    -- No session changes these stores' hours meanwhile, so the chats move to openings of the present hours.
    perform pg_advisory_xact_lock_shared(hours_lock(), locked.id)
       from (select distinct cv.store_id & 63 as id from conversations cv
              where cv.client_id = set_quiet_hours.client_id order by 1) locked;
    delete from quiet_hours qh where qh.client_id = set_quiet_hours.client_id;
    if timezone is not null then
        insert into quiet_hours values (client_id, timezone, starts, ends);
    end if;
    perform reschedule_for_client(client_id, case when timezone is not null then client_id end, at);
    perform pg_notify('chat_queued', '');
    perform tell_waiting_changed('client_id', client_id);
end $$;
