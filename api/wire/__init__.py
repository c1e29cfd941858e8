"""The wire formats: reading requests, checking their fields, answers and problems."""
