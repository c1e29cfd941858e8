-- Forgets old attempts and old ids of inbound messages.
select prune_channels()
