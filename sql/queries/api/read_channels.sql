-- The channels of a store, or (null) of the whole system, with their state: all, or the one with a name.
select channel_id, store_id, name, kind, url, cursor, state, behind, dead_letters, consecutive_failures,
       next_attempt_at, last_error, last_error_at
  from channel_status
 where store_id is not distinct from cast(:store_id as integer) and (cast(:name as text) is null or name = :name)
 order by name
