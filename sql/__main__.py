"""`python -m sql`: brings the database of DATABASE_URL up to date, or says why it cannot.

Past a pooler, where there is one: the lock that keeps two installations apart is a session's.
"""

import logging
import os
import sys

import psycopg

from sql.schema import WrongSchema, prepare

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
try:
    prepare(os.environ.get("SHOPTALK_LISTEN_URL") or os.environ.get("DATABASE_URL", ""))
except (WrongSchema, psycopg.Error) as error:
    sys.exit(f"shoptalk: {error}")
