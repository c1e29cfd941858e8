-- Retention: prune() removes old chats that were sent or cancelled, in short transactions.

-- Up to which position the log may be pruned of entries older than `keep`, at most `most` of them (null: any number),
-- and the channel that stops it there.
--
-- From the front only, so that there are no gaps in the positions behind it, and never the last entry, because the next
-- position is counted from it. An entry that a channel has not delivered, or is to deliver once more, stays, with all
-- entries behind it.
create or replace function prunable(keep interval, most bigint, out upto bigint, out held_by integer)
language plpgsql stable set enable_seqscan = off as $$
declare
    floor bigint := (select p.upto from pruned p);
    last bigint := coalesce((select max(l.position) from sent_log l), 0);
    until bigint := least(floor + most, last - 1);
    old_upto bigint;
    needed record;
begin
    select coalesce(
               (select l.position - 1 from sent_log l
                 where l.position > floor and l.position <= until and l.sent_at >= shoptalk_now() - prunable.keep
                 order by l.position limit 1),
               until)
      into old_upto;
    select n.channel_id, n.position into needed
      from (select cn.channel_id, cn.cursor + 1 as position from channels cn
            union all
            select d.channel_id, d.position from channel_dead_letters d where d.requeue_at is not null) n
     order by n.position limit 1;
    upto := greatest(floor, least(old_upto, needed.position - 1));
    if upto < old_upto then
        held_by := needed.channel_id;
    end if;
end $$;

-- Locks the chats of the log's entries behind `floor`, up to `upto`. Returns the position before the first chat that
-- another session has locked; `upto` if all are locked here.
create or replace function lock_prunable(floor bigint, upto bigint) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    last bigint;
begin
    with old as materialized (
        select l.position, l.chat_id from sent_log l
         where l.position > lock_prunable.floor and l.position <= lock_prunable.upto
    ), locked as materialized (
        select ch.chat_id from chats ch where ch.chat_id in (select o.chat_id from old o) for update of ch skip locked
    )
    select coalesce(min(o.position) - 1, lock_prunable.upto) into last
      from old o
     where not exists (select from locked k where k.chat_id = o.chat_id)
       and exists (select from chats ch where ch.chat_id = o.chat_id);
    return last;
end $$;

-- Removes chats, with the failures to send them.
create or replace function remove_chats(chat_ids bigint[]) returns void
language sql volatile set enable_seqscan = off as $$
    delete from chat_failures f where f.chat_id = any (chat_ids);
    delete from chats ch where ch.chat_id = any (chat_ids)
$$;

-- Removes the log's entries behind `floor`, up to `last`, with their chats and dead letters. Returns how many entries.
create or replace function prune_sent(floor bigint, last bigint) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    ids bigint[];
begin
    with gone as (
        delete from sent_log l where l.position > prune_sent.floor and l.position <= prune_sent.last returning l.chat_id
    )
    select coalesce(array_agg(gone.chat_id), '{}') into ids from gone;
    delete from channel_dead_letters d using channels cn
     where d.channel_id = cn.channel_id and d.position <= prune_sent.last;
    perform remove_chats(ids);
    return cardinality(ids);
end $$;

-- Removes the chats that were cancelled first, at most `most` of those cancelled before the instant `before`; skips
-- chats that another session has locked. Returns how many.
create or replace function prune_cancelled(before timestamptz, most integer) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    ids bigint[] := array(
        select ch.chat_id from cancelled_chats x join chats ch on ch.chat_id = x.chat_id
         where x.cancelled_at < prune_cancelled.before order by x.cancelled_at limit most for update of ch skip locked);
begin
    delete from cancelled_chats x where x.chat_id = any (ids);
    perform remove_chats(ids);
    return cardinality(ids);
end $$;

-- Removes chats that were sent or cancelled longer ago than `keep`: at most `most` of each in one short transaction, so
-- call it until there are no more. Null: another session is pruning. Raises 22023 for a keep of less than a day.
--
-- Waiting and failed chats stay, however old. So do conversations, since the next seq is counted from their last_seq.
-- send_chats() needs none of the removed rows: it asks the log for a chat's predecessor and, where the log does not
-- have it, whether an earlier chat of the conversation still waits; no removed chat does. It waits for no lock: it
-- stops in front of the first chat that another session has locked (erase_client()).
create or replace function prune(keep interval, most integer default 500) returns prune_report
language plpgsql volatile set enable_seqscan = off as $$
declare
    began_at timestamptz := shoptalk_now();
    floor bigint;
    last bigint;
    allowed record;
    report prune_report;
begin
    if keep < interval '1 day' or most < 1 then
        raise 'keep must be at least 1 day, and most at least 1' using errcode = '22023';
    end if;
    if not pg_try_advisory_xact_lock(prune_lock()) then
        return null;
    end if;
    floor := (select p.upto from pruned p);
    select * into allowed from prunable(keep, most);
    last := lock_prunable(floor, allowed.upto);
    report.sent := prune_sent(floor, last);
    report.cancelled := prune_cancelled(began_at - keep, most);
    report.more := report.sent = most or report.cancelled = most;
    report.held_by := allowed.held_by;
    if not report.more then
        delete from channel_attempts a where a.attempted_at < began_at - prune.keep;
    end if;
    update pruned p set upto = last, at = began_at, keep = prune.keep, held_by = report.held_by;
    return report;
end $$;
