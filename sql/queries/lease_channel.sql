-- The channel, leased to the caller; no row where it is somebody else's or not to be worked on now.
-- Raced: the second waits for the first's row lock and then finds it leased.
select token, cursor, attempts, settings from lease_channel(:channel_id, :owner, :seconds)
