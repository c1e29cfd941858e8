"""The files in deploy/, adapted to a test."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import ROOT

DEPLOY = ROOT / "deploy"


def render(name: str, folder: Path, changes: dict[str, str]) -> Path:
    """Writes the file of deploy/ with these texts replaced, each of which must be in it, and returns its path."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / Path(name).name
    path.write_text(text)
    path.chmod(0o644)
    return path
