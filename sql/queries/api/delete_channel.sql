-- Deletes a channel, its dead letters and its attempts.
delete from channels where channel_id = :channel_id
