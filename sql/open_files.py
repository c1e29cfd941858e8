"""How many files a process may have open: each stream is one, and the usual soft limit of 1024 is for select()."""

import contextlib
import resource

MACOS_MOST = 10240  # its hard limit says "any number", and is then refused


def allow_most_open_files() -> None:
    """Raises the soft limit of this process, and of those that it starts, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (hard, MACOS_MOST):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            break
