-- Moves the cursor over what the far side has confirmed; false where the lease is lost.
select settle_batch(:channel_id, :token, :upto, :attempts, cast(:done as bigint[]), cast(:refused as jsonb), cast(:tried as jsonb))
