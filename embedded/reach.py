"""Which database a command works on: DATABASE_URL's, or the embedded one, started for as long as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping

from embedded.programs import Unusable


@contextlib.contextmanager
def database_urls(environ: MutableMapping[str, str]) -> Iterator[tuple[str, str]]:
    """The URL of the database that bin/run uses, and the one past any pooler. Raises programs.Unusable.

    DATABASE_URL and SHOPTALK_LISTEN_URL; where the first is unset, the embedded server's.
    """
    given = environ.get("DATABASE_URL")
    if given:
        yield given, environ.get("SHOPTALK_LISTEN_URL") or given
        return
    try:
        from embedded.cluster import Cluster, data_folder  # a server of one's own needs less installed
    except ImportError:
        raise Unusable("set DATABASE_URL: there is no embedded PostgreSQL here") from None
    folder = data_folder()
    if not folder.exists():
        raise Unusable(f"there is no database in {folder}: start bin/run once, or set DATABASE_URL to one of yours")
    for name in [name for name in environ if name.startswith("PG")]:
        del environ[name]  # meant for another server
    cluster = Cluster(folder)
    with contextlib.nullcontext() if cluster.is_in_use() else cluster:
        try:
            url = cluster.url
        except FileNotFoundError:
            raise Unusable("the server is being made just now, try again in a moment") from None
        yield url, url
