-- What is going on: one row a state.
select state, chats, oldest, next_release from queue_status
