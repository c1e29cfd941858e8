-- Measuring the queue: its pressure, read each second, and the samples that make the plot and the metrics.

-- Whether the queue is too long, cheap enough to ask every second while it is: nothing is counted. waiting: the queue
-- rows, held ones included, by the server's own count (right within a second or two; after a crash it starts from the
-- next ANALYZE). oldest_seconds: how long the oldest due chat of the live lane has been due. The search starts where
-- sending has come to, past the dead rows in front, of which another session's open snapshot may have made a million.
create or replace function queue_pressure(out waiting bigint, out oldest_seconds double precision)
language sql stable set enable_seqscan = off as $$
    select pg_stat_get_live_tuples('chat_queue'::regclass),
           coalesce(greatest(0, extract(epoch from shoptalk_now() - (
               select q.due_at from chat_queue q
                where q.held_since is null and q.due_at >= coalesce((
                    select least(ch.held_until, ch.created_at, l.sent_at) - interval '1 second'
                      from sent_log l join chats ch on ch.chat_id = l.chat_id
                     where l.position = (select max(l.position) from sent_log l)), '-infinity')
                order by q.due_at, q.seq limit 1))), 0)
$$;

-- Takes the sample of this moment, unless another worker has taken it or is taking it, and removes those older than a
-- day.
create or replace function sample_queue() returns void
language plpgsql volatile as $$
declare
    slot timestamptz := date_bin('30 seconds', shoptalk_now(), '2000-01-01');
begin
    if exists (select from queue_samples t where t.at = slot) or not pg_try_advisory_xact_lock(sample_lock()) then
        return;
    end if;
    insert into queue_samples (
        at, held, queued, failed, sent, cancelled, oldest_held, next_release, channels, queued_seconds)
    select slot, sum(t.chats) filter (where t.state = 'held'), sum(t.chats) filter (where t.state = 'queued'),
           sum(t.chats) filter (where t.state = 'failed'), sum(t.chats) filter (where t.state = 'sent'),
           sum(t.chats) filter (where t.state = 'cancelled'),
           min(t.oldest) filter (where t.state = 'held'), min(t.next_release),
           (select coalesce(jsonb_agg(c), '[]') from channel_totals c),
           coalesce(greatest(0, extract(epoch from
                        shoptalk_now() - min(t.oldest) filter (where t.state = 'queued'))), 0)
      from queue_status t
    on conflict do nothing;
    delete from queue_samples t where t.at < slot - interval '24 hours';
end $$;
