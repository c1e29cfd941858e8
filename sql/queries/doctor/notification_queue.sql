-- How full the server's notification queue is, from 0 to 1. Once it is full, every transaction that notifies fails, and
-- nothing can be enqueued.
select pg_notification_queue_usage() as used
