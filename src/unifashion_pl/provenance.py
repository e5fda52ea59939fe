"""Which code is running."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from unifashion_pl import __version__

__all__ = ["__version__", "commit"]


@cache
def commit(folder: Path | None = None) -> str | None:
    """Git commit of a checkout (default: the one this library runs from), 12 digits and ``-dirty`` where tracked files were changed.

    None for an installed package, and where there is no git.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if not (folder / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
