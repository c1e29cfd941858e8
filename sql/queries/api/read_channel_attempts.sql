-- A channel's last attempts, the newest first.
select chat_id, attempted_at, took_seconds, status, error
  from channel_attempts
 where channel_id = :channel_id
 order by attempt_id desc
 limit 100
