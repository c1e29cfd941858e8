-- The channels of a store, all or the one of a name, and how they do.
select channel_id, store_id, name, kind, settings ->> 'url' as url, cursor,
       case when disabled_at is not null then 'disabled' when paused_at is not null then 'paused'
            when attempts > 0 then 'failing' else 'active' end as state,
       greatest((select coalesce(max(position), 0) from sent_log) - cursor, 0) as behind,
       (select count(*) from channel_failures f where f.channel_id = c.channel_id) as failures,
       attempts, case when next_attempt_at > shoptalk_now() then next_attempt_at end as retry_at,
       last_error, last_error_at
  from channels c
 where store_id = :store_id and (cast(:name as text) is null or name = :name)
 order by name
