-- How long the queue is and how old its oldest chat that may go; cheap at any length, see the function.
select waiting, oldest_seconds from queue_pressure()
