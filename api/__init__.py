"""The REST API. A view parses the request, runs one statement and answers. `app.py` assembles the application."""
