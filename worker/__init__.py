"""The worker process: `__main__` starts it, `consumer` sends, `floor` decides where each claim starts, `listener` waits
for wake-ups, and `schedule` checks the stores' hours.
"""
