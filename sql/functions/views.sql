-- The views: states of chats, the queue and the channels, for people and programs to read.

-- The API keys, without their hashes.
create or replace view keys as
    select k.key_id, k.name, k.scopes, k.store_id, k.created_at, k.revoked_at from api_keys k;

-- Every chat with its state. release_at: when a held chat is due.
create or replace view chat_states as
    select ch.chat_id, ch.conversation_id, ch.seq,
           case when x.chat_id is not null then 'cancelled'
                when f.chat_id is not null then 'failed'
                when q.chat_id is null then 'sent'
                when q.held_since is not null and q.due_at > shoptalk_now() then 'held'
                else 'queued' end as state,
           case when q.held_since is not null and q.due_at > shoptalk_now() then nullif(q.due_at, 'infinity') end
               as release_at,
           l.sent_at
      from chats ch
      left join chat_queue q on q.conversation_id = ch.conversation_id and q.seq = ch.seq
      left join cancelled_chats x on x.chat_id = ch.chat_id
      left join chat_failures f on f.chat_id = ch.chat_id and f.dead_at is not null
      left join sent_log l on l.conversation_id = ch.conversation_id and l.seq = ch.seq;

-- Paused stores and conversations, and how many chats wait in each.
create or replace view paused as
    select 'store' as kind, s.store_id as id, s.paused_at,
           (select count(*) from chat_queue q where q.store_id = s.store_id) as waiting
      from stores s where s.paused_at is not null
    union all
    select 'conversation', cv.conversation_id, cv.paused_at,
           (select count(*) from chat_queue q where q.conversation_id = cv.conversation_id)
      from conversations cv where cv.paused_at is not null;

-- One row per state. oldest: since when the chat that is longest in this state has been in it (sent: when the first
-- entry of the log was sent). Sent chats are not counted: their number is the log's last position.
create or replace view queue_status as
    with waiting as (
        select count(*) filter (where h.is_held) as held,
               min(q.held_since) filter (where h.is_held) as oldest_held,
               min(q.due_at) filter (where h.is_held and q.due_at < 'infinity') as next_release,
               count(*) filter (where not h.is_held) as queued,
               min(q.due_at) filter (where not h.is_held) as oldest_queued
          from chat_queue q,
               lateral (select q.held_since is not null and q.due_at > (select shoptalk_now()) as is_held) h
    )
    select 'held' as state, w.held as chats, w.oldest_held as oldest, w.next_release from waiting w
    union all
    select 'queued', w.queued, w.oldest_queued, null from waiting w
    union all
    select 'sent', coalesce((select max(l.position) from sent_log l), 0),
           (select l.sent_at from sent_log l
             where l.position > (select pruned.upto from pruned) order by l.position limit 1), null
    union all
    select 'failed', count(*), min(f.dead_at), null from chat_failures f where f.dead_at is not null
    union all
    select 'cancelled', count(*), min(x.cancelled_at), null from cancelled_chats x;

-- The channels with their state, without their secrets.
create or replace view channel_status as
    select cn.channel_id, cn.store_id, cn.name, cn.kind, cn.settings ->> 'url' as url, cn.cursor,
           case when cn.disabled_at is not null then 'disabled' when cn.paused_at is not null then 'paused'
                when cn.consecutive_failures > 0 then 'failing' else 'active' end as state,
           greatest((select coalesce(max(l.position), 0) from sent_log l) - cn.cursor, 0) as behind,
           (select count(*) from channel_dead_letters d where d.channel_id = cn.channel_id) as dead_letters,
           cn.consecutive_failures,
           case when cn.next_attempt_at > shoptalk_now() then cn.next_attempt_at end as next_attempt_at,
           cn.last_error, cn.last_error_at
      from channels cn;

-- The same, added up over the channels of one kind and state. behind: of the channel that is furthest back;
-- behind_since: since when the next entry for it is in the log. A channel with nothing to deliver follows the log
-- within 90 s.
create or replace view channel_totals as
    select t.kind, t.state, count(*) as channels, sum(t.dead_letters) as dead_letters, max(t.behind) as behind,
           (select l.sent_at from sent_log l
             where l.position > min(t.cursor) order by l.position limit 1) as behind_since
      from channel_status t
     group by t.kind, t.state;
