-- Sending: a batch that raises is halved by its pointers and not by its size, and a long backlog of a conversation is not
-- asked about quiet hours again and again. Only functions that send_chats() calls are replaced; programs of version 2 go
-- on beside it.

set local lock_timeout = '2s';
set local statement_timeout = '1min';

-- Nobody calls these but send_chats(), which finds the new ones.
-- squawk-ignore ban-drop-function
drop function send_carefully(integer, queue_floor, timestamptz);
-- squawk-ignore ban-drop-function
drop function send_batch(integer, queue_floor, timestamptz, tid);
-- squawk-ignore ban-drop-function
drop function send_claimed(integer, queue_floor, timestamptz, tid);

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
           at - min(due_at) filter (where may_go and held_since is not null)
      into claimed, sent, live_until, held_until, held_until_seq, held_until_conversation,
           waiting_conversations, waiting_seqs, live_sent, live_waited, held_waited
      from judged;
end $$;

-- Gives claimed pointers that may not go the instant from which they may: when the store is closed or the client
-- asleep, the end of that, at the store's pace (the chat is held, or taken back); otherwise the instant and the
-- lane of the earlier chat they wait for. Followers of a pointer that somebody keeps locked look again in a
-- second and then seldomer, lest a batch of them stand in front of all others for ever, or be rewritten for ever;
-- and so do the chats of a store whose opening period could not be looked up because its row is locked, or whose
-- pace somebody has. Returns whether the one waited for is due below the floor: then nothing is moved, and the
-- next claim must start from the very beginning.
create or replace function put_back(
    conversation_ids integer[], seqs integer[], floor queue_floor, at timestamptz) returns boolean
language plpgsql volatile as $$
declare
    below_floor boolean;
begin
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
               not q.urgent and s.paused_at is null and (at >= s.closes_at or at < s.closed_since) as unknown,
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

update schema_version set version = 3;
