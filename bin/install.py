"""Makes .venv and installs pinned requirements into it, unless that is done already.

Run by the other commands with whatever Python there is: standard library only. Usage: install.py FILE
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


def wanted(name):
    """The text of a requirements file and of those it includes."""
    text = (ROOT / name).read_text()
    included = [line[3:].strip() for line in text.splitlines() if line.startswith("-r ")]
    return text + "".join(wanted(other) for other in included)


def made_for():
    """What .venv has to be made for: this folder (its programs have its path in them), by its Python as it is now.

    None where that does not run. A system's upgrade may change it under us: what is installed lies elsewhere then.
    """
    try:
        asked = subprocess.run(
            [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
        )
    except (subprocess.CalledProcessError, OSError):
        return None
    return f"{VENV} {asked.stdout.strip()}"


def works():
    """Whether .venv was made to the end, and runs."""
    return MADE.exists() and MADE.read_text() == made_for()


def make():
    """An empty .venv, with pip in it or not: Debian's python3 may lack ensurepip."""
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", VENV], stdout=subprocess.DEVNULL) != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", VENV])
    MADE.write_text(made_for())


def pip():
    """The command that installs into .venv."""
    if subprocess.call([PYTHON, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0:
        return [PYTHON, "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", PYTHON]


def main(name):
    """Installs what the file names. The stamp is written last, so a killed installation is done again."""
    stamp = VENV / f"installed-{name}"
    if works() and stamp.exists() and stamp.read_text() == wanted(name):
        return
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if works() and stamp.exists() and stamp.read_text() == wanted(name):
            return
        print(f"installing {name} into .venv", file=sys.stderr, flush=True)
        if not works():
            make()
        subprocess.check_call(
            [*pip(), "install", "-q", "--disable-pip-version-check", "-r", ROOT / name], stdout=sys.stderr
        )
        stamp.write_text(wanted(name))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is ended too
    try:
        main(sys.argv[1])
    except (subprocess.CalledProcessError, OSError) as problem:
        sys.exit(f"shoptalk: could not install {sys.argv[1]}: {problem}")
