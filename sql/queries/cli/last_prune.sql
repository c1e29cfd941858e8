-- When prune() last ran, how many days it kept, where the log begins, and the channel that needs older entries than
-- that.
select p.at, extract(day from p.keep)::integer as days, p.upto + 1 as earliest, t.name as held_by, t.store_id
  from pruned p left join channel_status t on t.channel_id = p.held_by
