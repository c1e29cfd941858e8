-- When a worker last took a sample of the queue. Each worker tries every 30 s; the instant is the beginning of those 30
-- s.
select max(at) as worker_seen_at from queue_samples
