-- How much prune() would remove, and the channel that it would stop for.
select p.upto - (select upto from pruned) as sent,
       (select count(*) from cancelled_chats where cancelled_at < shoptalk_now() - make_interval(days => :days)) as cancelled,
       h.name as held_by, h.store_id
  from prunable(make_interval(days => :days), null) p
  left join channels h on h.channel_id = p.held_by
