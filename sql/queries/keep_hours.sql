-- Rings for the workers to release and to take back; answers the seconds to the next opening or closing.
select keep_hours() as next_change_seconds
