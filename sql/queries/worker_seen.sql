-- When a worker last kept the queue's history: each does, every 30 s; the instant is the beginning of those.
select max(at) as worker_seen_at from queue_samples
