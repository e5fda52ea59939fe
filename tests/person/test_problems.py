"""Errors about inputs, and the pictures that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from person.drawn import inverted, opened, tryon

from unifashion_pl.person.problems import InputError


def test_the_picture_of_a_wrong_mask_shows_it_over_the_person(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        tryon(files, "pose", mask=inverted(files), tmp=tmp_path)
    shown, person = (np.asarray(i, int) for i in (opened(caught.value.path), opened(files["person"])))  # type: ignore[arg-type]
    white = np.asarray(inverted(files)) >= 128
    redder = (shown[..., 0] - shown[..., 1]) - (person[..., 0] - person[..., 1])
    assert np.median(redder[white]) > 60
    assert np.median(abs(shown - person)[~white]) == 0
