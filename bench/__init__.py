"""The benchmark: `__main__` runs the measurements, `stage` has server and processes, `figures` rows and table."""
