"""Puts the verbs together, and says in plain words what went wrong."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
import psycopg

from cli import clients, doctor, hours, keys, prune, queue, status, upgrade
from cli.output import without_passwords
from cli.session import Refused, Unreachable
from embedded.programs import Unusable

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3  # the exit statuses; 2 is click's own

EPILOG = """\b
Exit status:
  0  done, or all is well
  1  refused: there is no such thing, it is in no state for that; doctor found something
  2  not understood: see --help
  3  the database cannot be reached, or not be used as you

\b
The database is DATABASE_URL's (past a pooler SHOPTALK_LISTEN_URL's); unset, the embedded one of bin/run.
Every verb takes --json. What is SQL underneath is named in its help: the same may be called from psql.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def shoptalk() -> None:
    """Look into Shoptalk, and work it."""


for module in (status, doctor, queue, hours, clients, prune, keys, upgrade):
    for verb in module.VERBS:
        shoptalk.add_command(verb)


def main() -> NoReturn:
    """Runs the verb of the command line, and exits with its status."""
    try:
        shoptalk(prog_name="shoptalk", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.ClickException, click.Abort) as problem:
        if isinstance(problem, click.Abort):
            stopped = isinstance(problem.__cause__, KeyboardInterrupt)  # not so where a question was answered with no
            _fail("stopped; what was done until then stays" if stopped else "nothing was done", REFUSED)
        problem.show()
        sys.exit(USAGE)
    except Refused as refusal:
        _fail(str(refusal), REFUSED)
    except (Unreachable, Unusable) as problem:
        _fail(str(problem), UNREACHABLE)
    except psycopg.Error as error:
        _fail(*in_words(error))
    except BrokenPipeError:
        sys.stderr.close()  # `shoptalk … | head`
    sys.exit(DONE)


def in_words(error: psycopg.Error) -> tuple[str, int]:
    """What a person should read of the error, and the exit status. Those of class ST are schema.sql's own."""
    said = (error.diag.message_primary or str(error)).strip()
    if error.sqlstate and error.sqlstate.startswith(("ST", "22", "23")):
        return said, REFUSED
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{said}: this needs the owner of the schema", UNREACHABLE
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return f"{said}: somebody holds a lock for long, `shoptalk doctor` says who", UNREACHABLE
    if isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError) and error.sqlstate is None:
        return f"cannot reach the database: {said}", UNREACHABLE
    return f"the database says: {said}", UNREACHABLE


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"shoptalk: {without_passwords(text)}", err=True)
    sys.exit(status)
