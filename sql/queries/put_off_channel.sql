-- The far side cannot take chats now: try again in so many seconds, or when somebody resumes the channel.
select put_off_channel(:channel_id, :token, :reason, :seconds, :disable)
