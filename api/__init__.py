"""The REST API: parse, one statement, answer. `app.py` puts it together."""
