-- Removes some of what was sent or cancelled that many days ago, in one short transaction; null where somebody else does.
select sent, cancelled, more, held_by from prune(make_interval(days => :days), :most)
