-- Sends the next due chats in one transaction of its own; the function's comment in schema.sql says what
-- makes it safe with any number of workers.
select claimed, sent, failed, last_due_at, below_floor from send_chats(:batch_size, :due_from)
