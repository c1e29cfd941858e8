"""What all processes share: settings, connections, the named statements, the schema, fields of a chat, log and metrics.

The other packages import this one; it imports none of them.
"""
