-- Replaces a store's hours and moves what it holds; the function's comment in schema.sql has the rest.
select * from change_hours(:store_id, cast(:hours as json), :dry_run)
