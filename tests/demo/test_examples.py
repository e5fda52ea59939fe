"""Examples are held-out drawings; of persons the region is there."""

from __future__ import annotations

import numpy as np

from unifashion_pl.demo.examples import FIRST, SIZE, clothes, persons
from unifashion_pl.wardrobe.catalogue import SIZES


def test_persons_have_a_region_that_spares_the_face_and_clothes_are_others_than_theirs() -> None:
    shown, flat = persons(2), clothes(2)
    assert [example.name for example in (*shown, *flat)] == ["person-0", "person-1", "garment-0", "garment-1"]
    for example in shown:
        assert example.picture.size == SIZE
        assert example.mask is not None
        mask = np.asarray(example.mask)
        assert mask.shape == SIZE[::-1]
        assert 0.15 < (mask > 127).mean() < 0.6
        assert not mask[: SIZE[1] // 10].any()
    assert all(example.mask is None and example.picture.size == SIZE for example in flat)
    assert np.asarray(flat[0].picture).tolist() != np.asarray(flat[1].picture).tolist()


def test_no_training_draws_them() -> None:
    assert max(spec.tryon_train for spec in SIZES.values()) < FIRST
