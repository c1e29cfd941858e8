-- Every channel with its state.
select name, store_id, kind, state, behind, dead_letters, consecutive_failures,
       next_attempt_at, last_error, last_error_at
  from channel_status
 order by store_id nulls first, name
