"""The web application with its long waits made short. Gunicorn serves it in tests that would have to wait for them."""

from api.app import create_app
from api.gate import keys
from api.push import presence
from api.views import stream
from api.wire import requests

requests.BODY_SECONDS = 1
keys.CACHE_SECONDS = keys.NEW_SECONDS = 0.1
stream.HEARTBEAT_SECONDS = stream.PRESENT_HEARTBEAT_SECONDS = 0.1
presence.LINGER_SECONDS = 0.5
presence.IDLE_SECONDS = 0.1

__all__ = ["create_app"]
