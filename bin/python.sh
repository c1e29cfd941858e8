# Read by the commands beside it: finds Python 3.11 or newer and installs the file given into .venv.
# Sets `root`.
umask 022  # the servers' account has to reach what root installs; secrets are made with modes of their own
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
    echo "shoptalk: Python 3.11 or newer is needed" >&2
    exit 1
fi
"$found" "$root/bin/install.py" "$1"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
