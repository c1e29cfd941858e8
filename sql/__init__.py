"""The database as the processes share it: how to connect, the named statements, the tables, the schema.

`api` and `worker` import this package and never each other; this one imports neither.
"""
