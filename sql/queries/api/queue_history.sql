-- The queue's samples of the last hour, oldest first.
select at, held, queued, failed, sent from queue_samples where at > shoptalk_now() - interval '1 hour' order by at
