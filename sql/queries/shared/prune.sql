-- Removes some of the chats that were sent or cancelled that many days ago, in one short transaction; null where
-- another session is doing it.
select sent, cancelled, more, held_by from prune(make_interval(days => :days), :most)
