"""The worker process: `__main__` starts it, `consumer` sends, `bell` sleeps, `schedule` keeps the hours."""
