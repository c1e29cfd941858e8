"""`python -m sql`: installs the schema into the database of DATABASE_URL if it is empty, or says why it cannot be used.

Past a pooler, where there is one: the lock that keeps two installations apart is a session's.
"""

import contextlib
import sys

import psycopg

from sql.keys import insist_on_keys
from sql.log import configure
from sql.schema import WrongSchema, prepare
from sql.settings import BadSetting, Settings

try:
    configure()
    settings = Settings.from_environment()
    prepare(settings.direct_url)
    # Worker and relay may not read the keys, and serve nobody who would need one; web, which may, asks again.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        insist_on_keys(settings)
except (BadSetting, WrongSchema, psycopg.Error) as error:
    sys.exit(f"shoptalk: {error}")
