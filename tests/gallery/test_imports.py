"""What an index needs no model for imports none: taking images out is a command of a second."""

from __future__ import annotations

import subprocess
import sys


def test_an_index_is_read_and_changed_without_torch() -> None:
    code = "import sys; from unifashion_pl.gallery import store, ranking; from unifashion_pl.commands import index; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "lightning", "transformers", "timm"} & set(loaded) == set()
    assert "unifashion_pl.gallery.store" in loaded
