-- How full the queue of notifications is, 0 to 1. Full, every transaction that notifies fails, so nothing is enqueued.
select pg_notification_queue_usage() as used
