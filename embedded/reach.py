"""The database that a command works on: that of DATABASE_URL, or the embedded one, started for the command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping

from embedded.programs import EmbeddedServerError


@contextlib.contextmanager
def database_urls(environ: MutableMapping[str, str]) -> Iterator[tuple[str, str]]:
    """DATABASE_URL and the direct URL, or twice the URL of the embedded server. Raises programs.EmbeddedServerError."""
    given = environ.get("DATABASE_URL")
    if given:
        yield given, environ.get("SHOPTALK_DIRECT_URL") or given
        return
    try:
        from embedded.cluster import Cluster, data_folder  # not installed with a server of your own
    except ImportError:
        raise EmbeddedServerError("set DATABASE_URL: the embedded PostgreSQL is not installed") from None
    folder = data_folder()
    if not folder.exists():
        raise EmbeddedServerError(
            f"there is no database in {folder}: start bin/run once, or set DATABASE_URL to your own"
        )
    for name in [name for name in environ if name.startswith("PG")]:
        del environ[name]  # meant for another server
    cluster = Cluster(folder)
    with contextlib.nullcontext() if cluster.is_in_use() else cluster:
        try:
            url = cluster.url
        except FileNotFoundError:
            raise EmbeddedServerError("the embedded server is just being created, try again in a moment") from None
        yield url, url
