"""bin/psql: psql on the database that bin/run uses, whether bin/run is running or not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import psycopg

from embedded import programs
from embedded.cluster import Cluster, data_folder


def main() -> int:
    """Runs psql with our arguments, and returns its exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for psql: it cancels a query
    database_url = os.environ.get("DATABASE_URL")
    if database_url:
        # The server may require TLS, which the embedded programs lack: so prefer the psql of this machine.
        program = shutil.which("psql") or str(programs.folder() / "psql")
        conninfo, password = _without_password(database_url)
        return subprocess.call([program, "-d", conninfo, *sys.argv[1:]], env=os.environ | password)
    cluster = Cluster(data_folder())
    if cluster.is_in_use():
        return _psql(cluster)
    with cluster:
        return _psql(cluster)


def _without_password(database_url: str) -> tuple[str, dict[str, str]]:
    """The connection string without the password, since command lines are public, and the password as environment."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        raise programs.EmbeddedServerError("DATABASE_URL is not a valid URL: percent-encode its password") from None
    password = parts.pop("password", None)
    rest = {name: str(part) for name, part in parts.items()}
    return psycopg.conninfo.make_conninfo(**rest), {"PGPASSWORD": str(password)} if password else {}


def _psql(cluster: Cluster) -> int:
    others = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        environment = others | cluster.connection
    except FileNotFoundError:
        raise programs.EmbeddedServerError("the embedded server is just being created, try again in a moment") from None
    return subprocess.call([programs.folder() / "psql", *sys.argv[1:]], env=environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except programs.EmbeddedServerError as error:
        sys.exit(f"shoptalk: {error}")
