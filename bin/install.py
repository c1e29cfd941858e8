"""Creates .venv and installs pinned requirements into it, unless that is already done.

The other commands run it with any Python they find, so it uses the standard library only. Usage: install.py FILE
"""

import fcntl
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MADE = VENV / "made-for"


def read_requirements(name):
    """The text of a requirements file and of the files that it includes."""
    text = (ROOT / name).read_text()
    included = [line[3:].strip() for line in text.splitlines() if line.startswith("-r ")]
    return text + "".join(read_requirements(other) for other in included)


def made_for():
    """The folder of .venv (the path is in its programs) and its Python's version; None if that Python does not run.

    A system upgrade can change the version under an existing .venv, whose packages are then in another folder.
    """
    try:
        found = subprocess.run(
            [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
        )
    except (subprocess.CalledProcessError, OSError):
        return None
    return f"{VENV} {found.stdout.strip()}"


def is_usable():
    """Whether .venv is complete and its Python runs."""
    return MADE.exists() and MADE.read_text() == made_for()


def create():
    """Creates an empty .venv, without pip if need be: Debian's python3 may lack ensurepip."""
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", VENV], stdout=subprocess.DEVNULL) != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", VENV])
    MADE.write_text(made_for())


def pip_command():
    """The command that installs into .venv."""
    if subprocess.call([PYTHON, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0:
        return [PYTHON, "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", PYTHON]


def main(name):
    """Installs the file. The stamp is written last, so that a killed installation is repeated."""
    stamp = VENV / f"installed-{name}"
    if is_usable() and stamp.exists() and stamp.read_text() == read_requirements(name):
        return
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_usable() and stamp.exists() and stamp.read_text() == read_requirements(name):
            return
        print(f"installing {name} into .venv", file=sys.stderr, flush=True)
        if not is_usable():
            create()
        subprocess.check_call(
            [*pip_command(), "install", "-q", "--disable-pip-version-check", "-r", ROOT / name], stdout=sys.stderr
        )
        stamp.write_text(read_requirements(name))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is terminated too
    try:
        main(sys.argv[1])
    except (subprocess.CalledProcessError, OSError) as problem:
        sys.exit(f"shoptalk: could not install {sys.argv[1]}: {problem}")
