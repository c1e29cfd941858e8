-- The first and the last position of the sent log; 1 and 0 while it is empty.
select coalesce((select min(position) from sent_log), 1) as earliest,
       coalesce((select max(position) from sent_log), 0) as latest
