"""Shoptalk measured: `__main__` runs the rows, `stage` is what they stand on, `figures` what comes out."""
