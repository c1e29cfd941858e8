"""Assembles the commands, and prints errors in plain words."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
import psycopg

from cli import clients, doctor, hours, keys, prune, queue, status, upgrade
from cli.output import mask_passwords
from cli.session import CommandError, UnreachableError
from embedded.programs import EmbeddedServerError
from sql.errors import is_rejection

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3  # the exit statuses; 2 is click's own

EPILOG = """\b
Exit status:
  0  done, or everything is fine
  1  refused: there is no such object, or its state does not allow it; doctor found a problem
  2  usage error; see --help
  3  the database cannot be reached, has no Shoptalk schema, or denies access

\b
It works on the database of DATABASE_URL (with a pooler, of SHOPTALK_DIRECT_URL); if unset, on the embedded one
of bin/run.
Every command takes --json. Its help names the SQL underneath, which can be called from psql with the same effect.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def shoptalk() -> None:
    """Inspect and operate Shoptalk."""


for module in (status, doctor, queue, hours, clients, prune, keys, upgrade):
    for command in module.COMMANDS:
        shoptalk.add_command(command)


def main() -> NoReturn:
    """Runs the command, and exits with its status."""
    try:
        shoptalk(prog_name="shoptalk", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.ClickException, click.Abort) as problem:
        if isinstance(problem, click.Abort):
            stopped = isinstance(problem.__cause__, KeyboardInterrupt)  # else the answer to a question was no
            _fail("stopped; changes made so far are kept" if stopped else "nothing was changed", REFUSED)
        problem.show()
        sys.exit(USAGE)
    except CommandError as error:
        _fail(str(error), REFUSED)
    except (UnreachableError, EmbeddedServerError) as error:
        _fail(str(error), UNREACHABLE)
    except psycopg.Error as error:
        _fail(*explain(error))
    except BrokenPipeError:
        sys.stderr.close()  # `shoptalk … | head`
    sys.exit(DONE)


def explain(error: psycopg.Error) -> tuple[str, int]:
    """The error for people, and the exit status."""
    text = (error.diag.message_primary or str(error)).strip()
    if is_rejection(error.sqlstate):
        return text, REFUSED
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{text}: this needs the owner of the schema", UNREACHABLE
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return f"{text}: another session holds a lock; `shoptalk doctor locks` shows which one", UNREACHABLE
    if isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError) and error.sqlstate is None:
        return f"cannot reach the database: {text}", UNREACHABLE
    return f"database error: {text}", UNREACHABLE


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"shoptalk: {mask_passwords(text)}", err=True)
    sys.exit(status)
