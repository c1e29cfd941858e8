-- Moves the cursors of channels that have nothing to deliver, where nobody has had them meanwhile.
select advance_idle_channels(cast(:channel_ids as integer[]), cast(:tokens as bigint[]), :upto)
