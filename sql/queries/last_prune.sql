-- When the past was last pruned, to how many days, from which position on the log is there, and the channel that needs what
-- is older still.
select p.at, extract(day from p.keep)::integer as days, p.upto + 1 as earliest, h.name as held_by, h.store_id
  from pruned p left join channel_status h on h.channel_id = p.held_by
