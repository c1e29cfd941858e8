-- The seconds until the channel's lease ends, or until its next attempt, whichever is later.
select extract(epoch from greatest(cn.next_attempt_at, case when is_leased(cn, at) then cn.lease_until end, at)
                          - at)::float8 as seconds
  from channels cn, shoptalk_now() at
 where cn.channel_id = :channel_id
