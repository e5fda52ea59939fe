"""The benchmark of loading at a size for tests: the pixels are the peer's, and every variant runs."""

from __future__ import annotations

import loading
import pytest


def test_every_variant_runs_on_equal_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    loading.main(["--scale", "tiny"])
    printed = capsys.readouterr().out
    assert "decoded and painted pixels 0; at 224 at most" in printed
    for name in ("peer", "seen", "peer+paint", "painted", "normalised", "torchvision", "build"):
        assert f"\n  {name}" in printed
