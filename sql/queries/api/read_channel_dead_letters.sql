-- A page of a channel's dead letters, by position.
select chat_id, position, reason, attempts, failed_at, requeue_at
  from channel_dead_letters
 where channel_id = :channel_id and position > :after
 order by position
 limit :page
