-- Forgets old attempts.
select prune_channels()
