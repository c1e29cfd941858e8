-- Sends the next due chats in one transaction of its own; the function's comment in schema.sql says what
-- makes it safe with any number of workers.
select claimed, sent, failed, live_until, held_until, held_until_seq, held_until_conversation, below_floor,
       live_sent, live_waited, held_waited, failures
  from send_chats(:batch_size, :live_from, :held_from, :held_from_seq, :held_from_conversation)
