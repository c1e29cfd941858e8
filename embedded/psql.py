"""bin/psql: psql on the very database that bin/run uses, whether that is running or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from embedded import programs
from embedded.cluster import Cluster, data_folder


def main() -> int:
    """Runs psql with our arguments and answers its exit status."""
    database_url = os.environ.get("DATABASE_URL")
    if database_url:
        # A server of the user's may want TLS, which the embedded programs lack: the machine's psql first.
        program = shutil.which("psql") or str(programs.folder() / "psql")
        return subprocess.call([program, "-d", database_url, *sys.argv[1:]])
    cluster = Cluster(data_folder())
    if cluster.is_in_use():
        return _psql(cluster)
    with cluster:
        return _psql(cluster)


def _psql(cluster: Cluster) -> int:
    others = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        environment = others | cluster.connection
    except FileNotFoundError:
        raise programs.Unusable("the server is being made just now, try again in a moment") from None
    return subprocess.call([programs.folder() / "psql", *sys.argv[1:]], env=environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except programs.Unusable as error:
        sys.exit(f"shoptalk: {error}")
