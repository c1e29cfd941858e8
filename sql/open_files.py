"""The limit of open files: each stream is one, and the usual soft limit of 1024 is for programs that use select()."""

import contextlib
import resource

MACOS_MOST = 10240  # its hard limit is "unlimited", which setrlimit() then rejects


def allow_most_open_files() -> None:
    """Raises the soft limit of this process, and of its child processes, as far as allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (hard, MACOS_MOST):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            break
