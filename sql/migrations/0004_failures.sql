-- What cannot be sent costs less, what XMPP bounces for the time being is resent for three days and not for ever, a chat that
-- a locked conversation keeps from going shows in the metrics, and erasing forgets what was noted of pruned chats.
-- Programs of version 3 go on beside it.

set local lock_timeout = '2s';
set local statement_timeout = '1min';

alter table queue_samples add column queued_seconds double precision not null default 0;

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
create or replace function send_carefully(batch_size integer, floor queue_floor, at timestamptz, chosen tid[] default null)
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

-- Takes the sample of this moment, unless another worker has or is about to, and forgets what is older than a day.
create or replace function sample_queue() returns void
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

-- Makes a client nobody: what would still be sent is cancelled, every text of theirs and to them, and whatever else a
-- person could be known by, is replaced, for good. Ids, seq, positions and instants stay, so that order, cursors and counts
-- do. Doing it again replaces what has come since. Raises ST404 for one that does not exist.
create or replace function erase_client(client_id integer, out conversations bigint, out chats bigint, out cancelled bigint)
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

-- The chat came back from its XMPP address after it had counted as delivered: a dead letter, late. Nothing happens
-- where somebody says so who is not the one it was sent to. requeue_seconds not null: once more then, for three days.
create or replace function bounced_on_xmpp(
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

-- As functions_of_roles() has it, for what was replaced.
do $$
declare
    writing regprocedure;
begin
    for writing in select unnest('{sample_queue,bounced_on_xmpp}'::regproc[])::oid::regprocedure loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', writing, current_schema());
    end loop;
end $$;

update schema_version set version = 4;
