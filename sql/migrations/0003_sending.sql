-- Sending, holding and looking, mended where a bad chat, a long backlog, a change of hours at the same moment or a million
-- rows made them slow or wrong; the functions say how. Programs of version 2 go on beside it.

set local lock_timeout = '2s';
set local statement_timeout = '1min';

-- Nobody calls these but send_chats(), which finds the new ones.
-- squawk-ignore ban-drop-function
drop function send_carefully(integer, queue_floor, timestamptz);
-- squawk-ignore ban-drop-function
drop function send_batch(integer, queue_floor, timestamptz, tid);
-- squawk-ignore ban-drop-function
drop function send_claimed(integer, queue_floor, timestamptz, tid);

-- Of a million cancelled chats it is made in half a second.
-- squawk-ignore require-concurrent-index-creation
create index cancelled_chats_at on cancelled_chats (cancelled_at);

-- The schedule's step: rings for the workers, whose claim releases and takes back what is due, and says how many
-- seconds it is until the next opening or closing. Harmless when missed, doubled or late. Looks each store up
-- anew once a day, and moves what it holds where the answer has become another: the rules of zones change too. Answers 0
-- where it has moved something: there may be more.
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

-- Makes an urgent chat, due at the instant `at`, the next of its conversation to go: those before it that wait
-- go with it, so that the order holds. Raises ST403 where the store does not let the sender.
create or replace function hurry(conversation conversations, sender text, at timestamptz) returns void
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

-- Gives claimed pointers that may not go the instant from which they may: when the store is closed or the client
-- asleep, the end of that, at the store's pace (the chat is held, or taken back); otherwise the instant and the
-- lane of the earlier chat they wait for. Followers of a pointer that somebody keeps locked look again in a
-- second and then seldomer, lest a batch of them stand in front of all others for ever, or be rewritten for ever;
-- and so do the chats of a store whose hours somebody is changing, whose opening period could not be looked up
-- because its row is locked, or whose pace somebody has. Returns whether the one waited for is due below the floor:
-- then nothing is moved, and the next claim must start from the very beginning.
create or replace function put_back(
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

-- A batch; and where it raises, its halves, down to the culprits, so that the rest goes. Each attempt is a
-- subtransaction of its own.
--
-- What is halved is the list of pointers, and not the number to claim: a held chat that cannot be sent would come
-- along with each half of the live ones, and make all of them go one by one.
create function send_carefully(batch_size integer, floor queue_floor, at timestamptz, chosen tid[] default null)
returns send_report
language plpgsql volatile as $$
declare
    pointers tid[];
    half integer;
    culprit chat_queue;
    reason text;
    first_half send_report;
    second_half send_report;
begin
    begin
        return send_batch(batch_size, floor, at, chosen);
    exception when others then
        if is_trouble_of_the_server(sqlstate) then
            raise;
        end if;
        reason := sqlstate || ': ' || sqlerrm;
    end;
    if chosen is null and reason like 'ST002:%' then
        return send_carefully(batch_size, floor, at, due_pointers(batch_size, floor, at));
    end if;
    if cardinality(chosen) = 1 then
        select * into culprit from chat_queue q where q.ctid = chosen[1];
        return (1, 0, 1, null::timestamptz, null::timestamptz, null::integer, null::integer, false,
                0, null::interval, null::interval, record_failure(culprit, reason, at));
    end if;
    pointers := coalesce(chosen, due_pointers(batch_size, floor, at));
    half := cardinality(pointers) / 2;
    first_half := send_carefully(batch_size, floor, at, pointers[:half]);
    second_half := send_carefully(batch_size, floor, at, pointers[half + 1:]);
    return (first_half.claimed + second_half.claimed, first_half.sent + second_half.sent,
            first_half.failed + second_half.failed,
            coalesce(second_half.live_until, first_half.live_until),
            coalesce(second_half.held_until, first_half.held_until),
            case when second_half.held_until is null then first_half.held_until_seq else second_half.held_until_seq end,
            case when second_half.held_until is null then first_half.held_until_conversation
                 else second_half.held_until_conversation end,
            first_half.below_floor or second_half.below_floor, first_half.live_sent + second_half.live_sent,
            greatest(first_half.live_waited, second_half.live_waited),
            greatest(first_half.held_waited, second_half.held_waited),
            coalesce(first_half.failures || second_half.failures, first_half.failures, second_half.failures));
end $$;

-- Sets a client's quiet hours, or none (timezone null), and moves what waits for the client. Raises ST404 for a
-- client that does not exist, 22023 for a zone that is none.
create or replace function set_quiet_hours(client_id integer, timezone text, starts time, ends time) returns void
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

-- A web process says that it lives, who has come to its streams and who has left them, and forgets processes
-- that have died. Tells the web processes who is present now and was not, and the other way round. One call at a
-- time, lest one that leaves and one that comes overlook each other. Lists are of {scope, number, party}.
create or replace function keep_presence(process text, came jsonb, gone jsonb) returns void
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

-- Removes what was sent or cancelled longer ago than `keep`: at most so many chats of each in one short transaction,
-- so call it until there is no more. Null: somebody else is at it.
--
-- What waits or has failed stays, however old. So do conversations, since their last_seq is what the next seq is
-- counted from. send_chats() needs nothing of what goes: it asks the log for a chat's predecessor and, where the log
-- does not have it, whether an earlier one of the conversation still waits; of what is gone none does.
-- Waits for nobody: the first chat that somebody has locked (erase_client()) is where it stops.
create or replace function prune(keep interval, most integer default 500) returns prune_report
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

-- One worker takes it.
create function sample_lock() returns bigint language sql immutable as $$ select 7310579106 $$;

-- Takes the sample of this moment, unless another worker has or is about to, and forgets what is older than a day.
create or replace function sample_queue() returns void
language plpgsql volatile as $$
declare
    slot timestamptz := date_bin('30 seconds', shoptalk_now(), '2000-01-01');
begin
    if exists (select from queue_samples s where s.at = slot) or not pg_try_advisory_xact_lock(sample_lock()) then
        return;
    end if;
    insert into queue_samples (at, held, queued, failed, sent, cancelled, oldest_held, next_release, channels)
    select slot, sum(chats) filter (where state = 'held'), sum(chats) filter (where state = 'queued'),
           sum(chats) filter (where state = 'failed'), sum(chats) filter (where state = 'sent'),
           sum(chats) filter (where state = 'cancelled'),
           min(oldest) filter (where state = 'held'), min(next_release),
           (select coalesce(jsonb_agg(t), '[]') from channel_totals t)
      from queue_status
    on conflict do nothing;
    delete from queue_samples s where s.at < slot - interval '24 hours';
end $$;

-- One row a state. oldest: since when the chat that is longest in this state has been in it (of sent:
-- when the first that is kept was sent). The sent are not counted but read off the log's last position.
create or replace view queue_status as
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

-- As functions_of_roles() has it, for those that were replaced.
do $$
declare
    writing regprocedure;
begin
    for writing in select unnest('{keep_hours,set_quiet_hours,keep_presence,prune,sample_queue}'::regproc[])::oid::regprocedure loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', writing, current_schema());
    end loop;
end $$;

update schema_version set version = 3;
