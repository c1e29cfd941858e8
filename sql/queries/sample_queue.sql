-- Takes a sample of the queue for its history; harmless when missed, doubled or late.
select sample_queue()
