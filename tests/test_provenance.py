"""Which code is running: compared with git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from unifashion_pl.provenance import commit


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_of_a_checkout_and_its_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "tag", "v9")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head[:12]
    commit.cache_clear()
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == head[:12] + "-dirty"


def test_no_checkout_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert commit(tmp_path / "missing") is None
