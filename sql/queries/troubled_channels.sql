-- The channels that do not deliver, or have dead letters.
select name, store_id, kind, state, behind, failures, retry_at, last_error, last_error_at
  from channel_status
 where state <> 'active' or failures > 0
 order by store_id nulls first, name
