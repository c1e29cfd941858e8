-- Sending chats: send_chats() claims what is due and moves it to the log. The worker calls nothing else of this file.

-- Claims the next due rows of the queue: locks them and returns where they are. A row that another session has locked is
-- skipped.
--
-- Live chats go first, so that they do not wait behind held ones, and with at most a fifth of a batch of held ones, so
-- that they are committed soon; but with that fifth, so that held chats do not wait forever.
create or replace function claim_due(batch_size integer, floor claim_floor, at timestamptz) returns tid[]
language plpgsql volatile as $$
declare
    live_floor timestamptz := floor.live;
    held_due_at timestamptz := (floor.held).due_at;
    held_seq integer := (floor.held).seq;
    held_conversation_id integer := (floor.held).conversation_id;
    live tid[];
    held tid[];
begin
    live := array(
        select q.ctid from chat_queue q
         where q.held_since is null and q.due_at >= live_floor and q.due_at <= at
         order by q.due_at, q.seq
         limit batch_size
           for update skip locked);
    held := array(
        select q.ctid from chat_queue q
         where q.held_since is not null and q.due_at <= at
           and (q.due_at, q.seq, q.conversation_id) >= (held_due_at, held_seq, held_conversation_id)
         order by q.due_at, q.seq, q.conversation_id
         limit case when cardinality(live) > 0 then greatest(batch_size / 5, 1) else batch_size end
           for update skip locked);
    return live || held;
end $$;

-- Moves those claimed rows that may be sent to the log, in one statement.
--
-- What makes it safe. The caller holds the sender's lock, so position order is commit order and nobody else claims. The
-- caller has locked the rows in a statement of its own, so this one sees them as they are: a row that another session
-- rewrote just before the claim came to it would otherwise be logged but not deleted. A locked row was skipped; therefore
-- a chat is sent only if its predecessor is sent with it or is in the log, or else if no earlier row of its conversation
-- is left in the queue. The log is asked first because it has no dead rows to walk over, however long somebody keeps a
-- snapshot open. In the log a chat comes no earlier than those before it, since defer_chats() may have moved them behind
-- it. The two look-ups are scalar subqueries, which the planner never turns into a hash of the whole table.
--
-- waiting_*: conversation_id and seq of the claimed rows that may not be sent yet; null when all were sent.
create or replace function send_claimed(
    claimed tid[], at timestamptz,
    out report send_report, out waiting_conversations integer[], out waiting_seqs integer[])
language plpgsql volatile as $$
begin
    with neighbours as (
        select q.ctid as row_id, q.*, coalesce(lag(q.seq) over (partition by q.conversation_id order by q.seq), 0) as before
          from chat_queue q where q.ctid = any (claimed)
    ), judged as materialized (
        select n.*, max(n.due_at) over earlier as sent_as_of, bool_and(
                   (select s.paused_at is null and (n.any_hour or at >= s.opens_at and at < s.closes_at)
                      from stores s where s.store_id = n.store_id)
                   and (n.quiet_for is null or n.any_hour or not is_quiet(n.quiet_for, at))
                   and (n.before = n.seq - 1
                        or coalesce((select true from sent_log l
                                      where l.conversation_id = n.conversation_id and l.seq = n.seq - 1 limit 1),
                                    (select false from chat_queue p
                                      where p.conversation_id = n.conversation_id
                                        and p.seq > n.before and p.seq < n.seq limit 1),
                                    true))
               ) over earlier as is_sent
          from neighbours n
        window earlier as (partition by n.conversation_id order by n.seq)
    ), acked as (
        delete from chat_queue q using judged j where j.is_sent and q.ctid = j.row_id
    ), logged as (
        insert into sent_log (position, chat_id, conversation_id, seq, sent_at)
        select coalesce((select max(l.position) from sent_log l), 0) + row_number() over (order by sent_as_of, seq),
               chat_id, conversation_id, seq, at
          from judged where is_sent
    )
    select count(*), count(*) filter (where is_sent), 0,
           max(least(due_at, at - interval '1 second')) filter (where held_since is null),
           (select (due_at, seq, conversation_id)::queue_position from judged where held_since is not null
             order by due_at desc, seq desc, conversation_id desc limit 1),
           false,
           count(*) filter (where is_sent and held_since is null),
           at - min(due_at) filter (where is_sent and held_since is null),
           at - min(due_at) filter (where is_sent and held_since is not null),
           array_agg(conversation_id) filter (where not is_sent), array_agg(seq) filter (where not is_sent)
      into report.claimed, report.sent, report.failed, report.live_floor, report.held_floor, report.below_floor,
           report.live_sent, report.live_waited, report.held_waited, waiting_conversations, waiting_seqs
      from judged;
end $$;

-- A client who writes is not in quiet hours: chats of the conversation that wait only for those are released ahead of the
-- client's.
create or replace function lift_quiet_hours(conversation_ids integer[], seqs integer[], at timestamptz) returns void
language sql volatile as $$
    with written as (
        select w.conversation_id, max(w.seq) as seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
          join chats ch using (conversation_id, seq)
         where ch.sender = 'client'
         group by w.conversation_id
    ), quiet as (
        select q.conversation_id, q.seq
          from written w join chat_queue q on q.conversation_id = w.conversation_id and q.seq < w.seq
         where q.quiet_for is not null and not q.paused and next_release(q.store_id, at) is null
           for update of q skip locked
    )
    update chat_queue q set quiet_for = null, due_at = least(q.due_at, at) from quiet
     where q.conversation_id = quiet.conversation_id and q.seq = quiet.seq
$$;

-- Spreads rows that were deferred to an opening at their store's pace. Waits for nobody: where another session has locked
-- the pace, the rows are due again in a second.
create or replace function pace_deferred(conversation_ids integer[], seqs integer[], at timestamptz) returns void
language plpgsql volatile as $$
declare
    deferred record;
begin
    for deferred in
        select q.conversation_id, q.seq, q.store_id, q.due_at,
               (select true from store_paces p where p.store_id = q.store_id for update skip locked) as is_free
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.seq
         where q.due_at = (select s.opens_at from stores s where s.store_id = q.store_id)
           and q.store_id in (select p.store_id from store_paces p) and not q.any_hour and q.due_at > at
         order by q.conversation_id, q.seq
    loop
        update chat_queue q
           set due_at = case when deferred.is_free then take_slot(deferred.store_id, deferred.due_at)
                             else at + interval '1 second' end
         where q.conversation_id = deferred.conversation_id and q.seq = deferred.seq;
    end loop;
end $$;

-- The stores of these rows whose hours another session is changing. As hold_until() does it: whoever changes the hours of
-- one of the others from now on waits for this transaction, and then moves what it has deferred.
create or replace function stores_changing_hours(conversation_ids integer[], seqs integer[]) returns integer[]
language plpgsql volatile as $$
begin
    return array(
        select s.store_id
          from (select distinct q.store_id
                  from unnest(conversation_ids, seqs) as w(conversation_id, seq)
                  join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.seq offset 0) s
         where not pg_try_advisory_xact_lock_shared(hours_lock(), s.store_id & 63));
end $$;

-- Defers claimed rows whose store is closed or paused, or whose client is in quiet hours, until that ends: the chat
-- becomes held, or held again. For a second only where the end is not known now: the store's hours are being changed, or
-- its opening period could not be looked up because its row is locked.
create or replace function defer_closed(
    conversation_ids integer[], seqs integer[], changing integer[], at timestamptz) returns void
language plpgsql volatile as $$
declare
    now_held bigint[];
begin
    with waiting as (
        select conversation_id, min(seq) as first_seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
         group by conversation_id
    ), firsts as materialized (
        select w.conversation_id,
               q.store_id = any (changing)
               or not q.any_hour and s.paused_at is null and (at >= s.closes_at or at < s.closed_since) as is_unknown,
               case when s.paused_at is not null then timestamptz 'infinity'
                    when not q.any_hour and at < s.closes_at and at >= s.closed_since
                    then next_release(q.store_id, q.quiet_for, at) end as opening
          from waiting w
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.first_seq
          join stores s on s.store_id = q.store_id
    ), deferred as materialized (
        -- By itself: with the conversation_id of firsts in reach, a plan walks the conversation's backlog for each row of it.
        select w.conversation_id, w.seq, f.is_unknown, f.opening, (select q.held_since is null from chat_queue q
                 where q.conversation_id = w.conversation_id and q.seq = w.seq) as was_live
          from unnest(conversation_ids, seqs) as w(conversation_id, seq) join firsts f using (conversation_id)
         where f.is_unknown or f.opening is not null
    ), moved as (
        update chat_queue q
           set due_at = case when d.is_unknown then at + interval '1 second' else d.opening end,
               held_since = case when d.is_unknown then q.held_since else coalesce(q.held_since, at) end
          from deferred d
         where q.conversation_id = d.conversation_id and q.seq = d.seq
        returning q.chat_id, d.was_live and not d.is_unknown as is_now_held
    )
    select array_agg(chat_id) into now_held from moved where is_now_held;
    -- Open pages show these as queued: they were accepted before the closing, or while the hours were being changed.
    if now_held is not null then
        perform tell_chats_changed(now_held);
    end if;
end $$;

-- Defers the other claimed rows, which wait for an earlier row of their conversation: they get its instant and its lane.
-- Chats behind a row that another session keeps locked are retried after 1 s, backing off to 30 s, so that they cannot
-- fill every batch, nor be rewritten without end. Returns whether an earlier row is due below the floor: its followers
-- are not moved then, and the next claim must start at the very beginning.
create or replace function defer_blocked(
    conversation_ids integer[], seqs integer[], floor claim_floor, at timestamptz) returns boolean
language plpgsql volatile as $$
declare
    below_floor boolean;
    now_held bigint[];
begin
    with waiting as (
        select conversation_id, min(seq) as first_seq
          from unnest(conversation_ids, seqs) as w(conversation_id, seq)
         group by conversation_id
    ), blocked as materialized (
        select w.conversation_id, b.seq is not null as has_blocker, b.due_at, b.held_since,
               coalesce(case when b.held_since is null then b.due_at < floor.live
                             else (b.due_at, b.seq, w.conversation_id)
                                  < ((floor.held).due_at, (floor.held).seq, (floor.held).conversation_id) end,
                        false) as is_below
          from waiting w
          -- A row that defer_closed() has moved is not due any more.
          join chat_queue q on q.conversation_id = w.conversation_id and q.seq = w.first_seq and q.due_at <= at
          left join lateral (select p.due_at, p.held_since, p.seq
                               from chat_queue p
                              where p.conversation_id = w.conversation_id and p.seq < w.first_seq
                              order by p.seq limit 1) b on true
    ), deferred as materialized (
        -- By itself, as in defer_closed().
        select w.conversation_id, w.seq, b.has_blocker, b.due_at, b.held_since, (select q.held_since is null from chat_queue q
                 where q.conversation_id = w.conversation_id and q.seq = w.seq) as was_live
          from unnest(conversation_ids, seqs) as w(conversation_id, seq) join blocked b using (conversation_id)
         where not b.is_below
    ), moved as (
        update chat_queue q
           set due_at = case when not d.has_blocker then at  -- it was cancelled meanwhile
                             when d.due_at > at or (d.held_since is null) <> (q.held_since is null) then d.due_at
                             else at + greatest('1 second', least('30 seconds', (at - d.due_at) / 4)) end,
               held_since = case when not d.has_blocker then q.held_since
                                 when d.held_since is not null then coalesce(q.held_since, at) end
          from deferred d
         where q.conversation_id = d.conversation_id and q.seq = d.seq
        returning q.chat_id, d.was_live and d.held_since is not null and d.due_at > at as is_now_held
    )
    select (select coalesce(bool_or(is_below), false) from blocked),
           array_agg(chat_id) filter (where is_now_held)
      into below_floor, now_held from moved;
    if now_held is not null then
        perform tell_chats_changed(now_held);
    end if;
    return below_floor;
end $$;

-- Gives claimed rows that may not be sent yet the instant from which they may. Returns what defer_blocked() does.
create or replace function defer_chats(
    conversation_ids integer[], seqs integer[], floor claim_floor, at timestamptz) returns boolean
language plpgsql volatile as $$
declare
    -- First, in a statement before the others, which then see the hours that were changed before.
    changing integer[] := stores_changing_hours(conversation_ids, seqs);
    below_floor boolean;
begin
    -- Asked of the conversations and not of all rows before each: for a long backlog that was quadratic.
    if exists (select from conversations cv join quiet_hours qh using (client_id)
                where cv.conversation_id = any (conversation_ids)) then
        perform lift_quiet_hours(conversation_ids, seqs, at);
    end if;
    perform defer_closed(conversation_ids, seqs, changing, at);
    below_floor := defer_blocked(conversation_ids, seqs, floor, at);
    if exists (select from store_paces) then
        perform pace_deferred(conversation_ids, seqs, at);
    end if;
    return below_floor;
end $$;

-- Backoff: 1, 2, 4, 8 seconds; the fifth failure makes a dead letter. Only this chat's conversation waits, because
-- defer_blocked() gives its followers this row's instant. Returns the failure for the report.
create or replace function record_failure(failed chat_queue, reason text, at timestamptz) returns jsonb
language plpgsql volatile as $$
declare
    failure chat_failures;
begin
    insert into chat_failures as f (chat_id, attempts, reason, last_attempt_at)
    values (failed.chat_id, 1, record_failure.reason, at)
    on conflict on constraint chat_failures_pkey do update
        set attempts = f.attempts + 1, reason = excluded.reason, last_attempt_at = excluded.last_attempt_at
    returning * into failure;
    if failure.attempts < 5 then
        update chat_queue q set due_at = at + interval '1 second' * 2 ^ (failure.attempts - 1), held_since = null
         where q.conversation_id = failed.conversation_id and q.seq = failed.seq;
    else
        update chat_failures f set dead_at = at where f.chat_id = failed.chat_id;
        delete from chat_queue q where q.conversation_id = failed.conversation_id and q.seq = failed.seq;
        perform tell_chats_changed(array[failed.chat_id]);
    end if;
    return jsonb_build_array(jsonb_build_object(
        'chat_id', failed.chat_id, 'conversation_id', failed.conversation_id, 'seq', failed.seq,
        'attempts', failure.attempts, 'dead', failure.attempts >= 5, 'reason', reason));
end $$;

create or replace function empty_report() returns send_report language sql immutable as $$
    select row (0, 0, 0, null, null, false, 0, null, null, null)::send_report
$$;

-- What two batches did together; `later` is the later one in the queue's order.
create or replace function add_reports(earlier send_report, later send_report) returns send_report
language sql immutable as $$
    select row (earlier.claimed + later.claimed, earlier.sent + later.sent, earlier.failed + later.failed,
                greatest(earlier.live_floor, later.live_floor), coalesce(later.held_floor, earlier.held_floor),
                earlier.below_floor or later.below_floor, earlier.live_sent + later.live_sent,
                greatest(earlier.live_waited, later.live_waited), greatest(earlier.held_waited, later.held_waited),
                coalesce(earlier.failures || later.failures, earlier.failures, later.failures))::send_report
$$;

-- Sends the claimed rows in a subtransaction. Null: that raised an error, and one of several rows is at fault; where it
-- is the only one, its failure is recorded.
create or replace function send_batch(claimed tid[], floor claim_floor, at timestamptz) returns send_report
language plpgsql volatile as $$
declare
    batch record;
    report send_report;
    failed chat_queue;
    reason text;
begin
    begin
        select * into batch from send_claimed(claimed, at);
        report := batch.report;
        if batch.waiting_seqs is not null then
            report.below_floor := defer_chats(batch.waiting_conversations, batch.waiting_seqs, floor, at);
        end if;
        return report;
    exception when others then
        if is_server_fault(sqlstate) then
            raise;
        end if;
        reason := sqlstate || ': ' || sqlerrm;
    end;
    if cardinality(claimed) > 1 then
        return null;
    end if;
    select * into failed from chat_queue q where q.ctid = claimed[1];
    report := empty_report();
    report.claimed := 1;
    report.failed := 1;
    report.failures := record_failure(failed, reason, at);
    return report;
end $$;

-- Sends claimed rows that raised an error together: halves them, down to the rows at fault, so that the rest is sent.
create or replace function send_in_halves(claimed tid[], floor claim_floor, at timestamptz) returns send_report
language plpgsql volatile as $$
declare
    half integer := cardinality(claimed) / 2;
    first tid[] := claimed[:half];
    second tid[] := claimed[half + 1:];
    report send_report;
begin
    report := coalesce(send_batch(first, floor, at), send_in_halves(first, floor, at));
    return add_reports(report, coalesce(send_batch(second, floor, at), send_in_halves(second, floor, at)));
end $$;

-- The same, with chats that failed before sent first and each alone, ahead of their followers: so four of a dead letter's
-- five attempts cost one subtransaction each, and not one for each time that the batch is halved.
create or replace function send_apart(claimed tid[], floor claim_floor, at timestamptz) returns send_report
language plpgsql volatile as $$
declare
    suspects tid[] := array(
        select c.row_id
          from unnest(claimed) with ordinality as c(row_id, index)
          join chat_queue q on q.ctid = c.row_id join chat_failures f using (chat_id)
         order by c.index);
    suspect tid;
    others tid[];
    report send_report := empty_report();
begin
    if cardinality(suspects) = 0 then
        return send_in_halves(claimed, floor, at);
    end if;
    foreach suspect in array suspects loop
        report := add_reports(report, send_batch(array[suspect], floor, at));
    end loop;
    others := array(select c from unnest(claimed) c where c <> all (suspects));
    return add_reports(report, coalesce(send_batch(others, floor, at), send_in_halves(others, floor, at)));
end $$;

-- Sends the next due chats, about batch_size of them, in one short transaction: claim, write to the log, delete the queue
-- rows, notify. Any number of workers may call it: one at a time gets the lock, the others get null and stand by. (When
-- they waited for the lock in turn they handed it over after every batch, which was slower than one worker alone.) The
-- floor spares the claim the dead rows in front; a chat due below it waits until the claim starts at '-infinity' again.
--
-- The settings pin the plan to index scans, whatever the statistics say: a plan made for an empty table stands still on a
-- full one until the next ANALYZE. And they keep it: planning each time took a tenth of a batch.
create or replace function send_chats(
    batch_size integer default 500, live_floor timestamptz default '-infinity',
    held_floor queue_position default '(-infinity,0,0)')
returns send_report
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    at timestamptz;
    floor claim_floor := (live_floor, held_floor);
    claimed tid[];
    report send_report;
begin
    if not pg_try_advisory_xact_lock(sender_lock()) then
        return null;
    end if;
    at := shoptalk_now();
    if exists (select from stores s where s.closes_at <= at) or exists (select from stores s where s.closed_since > at) then
        perform refresh_opening_periods(at);
    end if;
    claimed := claim_due(batch_size, floor, at);
    report := coalesce(send_batch(claimed, floor, at), send_apart(claimed, floor, at));
    if report.sent > 0 then
        perform pg_notify('chat_sent', '');
    end if;
    return report;
end $$;
