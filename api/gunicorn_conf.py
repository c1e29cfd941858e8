"""How gunicorn serves the app. Must not import psycopg: gevent has to patch the process first."""

import os

from sql.settings import BadSetting, Settings

try:
    _settings = Settings.from_environment()
except BadSetting as error:
    raise SystemExit(f"shoptalk: {error}") from None

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = "gevent"
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_connections = 10000
keepalive = 75  # seconds; above the usual proxy's 60, so that it never reuses a connection we are closing
graceful_timeout = 3  # seconds; below honcho's and the contract's 5
timeout = 30
control_socket_disable = True
