"""Shoptalk on one machine with nothing installed: PostgreSQL from a wheel, and the commands in bin/.

Only bin/ and the tests come here. Where DATABASE_URL is set, nothing in here is started or needed.
"""
