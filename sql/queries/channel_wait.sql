-- How many seconds until the channel's lease or its wait after a failure is over.
select greatest(extract(epoch from next_attempt_at - shoptalk_now()),
                case when is_leased(c, shoptalk_now()) then extract(epoch from lease_until - shoptalk_now()) end,
                0)::float8 as seconds
  from channels c
 where channel_id = :channel_id
