-- The channels that do not deliver, or that have dead letters.
select name, store_id, kind, state, behind, dead_letters, next_attempt_at, last_error, last_error_at
  from channel_status
 where state <> 'active' or dead_letters > 0
 order by store_id nulls first, name
