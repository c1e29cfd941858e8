-- The channel with its lease made longer; no row where it is lost.
select token from renew_lease(:channel_id, :token, :seconds)
