"""Shoptalk on one machine without installing anything else: PostgreSQL from a wheel, and the commands in bin/.

Only bin/, the command line, drill, bench and the tests use it. If DATABASE_URL is set, it starts nothing.
"""
