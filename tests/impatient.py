"""The web application as it is, but with its long waits made short: what gunicorn serves in tests of them."""

from api.app import create_app
from api.gate import keys
from api.views import stream
from api.wire import requests

requests.BODY_SECONDS = 1
keys.CACHE_SECONDS = keys.NEW_SECONDS = 0.1
stream.HEARTBEAT_SECONDS = stream.PRESENT_HEARTBEAT_SECONDS = 0.2

__all__ = ["create_app"]
