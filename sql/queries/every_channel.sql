-- Every channel and how it does.
select name, store_id, kind, state, behind, failures, attempts, retry_at, last_error, last_error_at
  from channel_status
 order by store_id nulls first, name
