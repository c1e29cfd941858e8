-- How much prune() would remove, and the channel that would stop it.
select p.upto - (select r.upto from pruned r) as sent,
       (select count(*) from cancelled_chats x
         where x.cancelled_at < shoptalk_now() - make_interval(days => :days)) as cancelled,
       cn.name as held_by, cn.store_id
  from prunable(make_interval(days => :days), null) p
  left join channels cn on cn.channel_id = p.held_by
