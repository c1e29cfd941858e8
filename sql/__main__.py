"""`python -m sql`: installs the schema into the empty database of DATABASE_URL, or reports why it cannot be used.

`python -m sql --print` prints the whole schema as one file, for a database administrator to review and load.
It uses the direct connection, because the lock that serializes installations belongs to a session.
"""

import contextlib
import sys

import psycopg

from sql.install import WrongSchema, prepare, schema
from sql.keys import require_keys
from sql.log import configure
from sql.settings import BadSetting, Settings

if sys.argv[1:] == ["--print"]:
    sys.stdout.write(schema())
    sys.exit()
try:
    configure()
    settings = Settings.from_environment()
    prepare(settings.direct_url)
    # The roles of worker and relay may not read the keys, and those processes serve no API. Web may, and checks again.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        require_keys(settings)
except (BadSetting, WrongSchema, psycopg.Error) as error:
    sys.exit(f"shoptalk: {error}")
