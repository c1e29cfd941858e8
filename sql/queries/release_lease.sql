-- Gives the lease back, if it is still the caller's.
select release_lease(:channel_id, :token)
