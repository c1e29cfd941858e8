# Sourced by the other commands: finds Python 3.11 or newer, and installs the given requirements file into .venv.
# Sets `root`. Call install() for further files.
umask 022  # the server's account must be able to read files that root installs; secrets get their own modes
case ${SHOPTALK_DATA:-/} in /*) ;; *) export SHOPTALK_DATA="$PWD/$SHOPTALK_DATA" ;; esac
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
found=
for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        found=$python
        break
    fi
done
if [ -z "$found" ]; then
    echo "shoptalk: Python 3.11 or newer is required" >&2
    exit 1
fi
# In the background, so that a signal to this shell alone also ends the installation.
install() {
    "$found" "$root/bin/install.py" "$1" &
    trap 'kill $!; wait; exit 143' INT TERM HUP
    wait $!
    trap - INT TERM HUP
}
install "$1"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
