-- The first and the last position of the sent log; 1 and 0 while it is empty. The search for the first starts after
-- what prune() has removed, which may have left many dead rows.
select coalesce((select min(position) from sent_log where position > (select upto from pruned)), 1) as earliest,
       coalesce((select max(position) from sent_log), 0) as latest
