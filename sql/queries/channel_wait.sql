-- How many seconds until the channel's lease or its wait after a failure is over.
select extract(epoch from greatest(next_attempt_at, case when is_leased(c, at) then lease_until end, at) - at)::float8
           as seconds
  from channels c, shoptalk_now() at
 where channel_id = :channel_id
