-- Closes a store on the days given as well. Raises ST404.
select * from close_on(:store_id, cast(:days as date[]), cast(:names as text[]), :dry_run)
