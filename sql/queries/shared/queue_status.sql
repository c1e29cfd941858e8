-- How many chats there are in each state, one row per state.
select state, chats, oldest, next_release from queue_status
