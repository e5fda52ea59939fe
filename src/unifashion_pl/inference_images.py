"""Many pictures at once: all that cannot be read are found before any work is done for the others."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from unifashion_pl.data.plan import some
from unifashion_pl.inference import OneImage, open_image

#: Unreadable pictures that a message names.
NAMED = 20


class UnreadableImages(ValueError):
    """More pictures than are allowed cannot be read.

    Attributes:
        bad: position -> what is wrong.
    """

    def __init__(self, bad: dict[int, str], of: int, max_bad: int) -> None:
        self.bad = bad
        super().__init__(
            f"{len(bad):,} of {of:,} images cannot be used, allowed are {max_bad}: {some(bad.values(), NAMED)}. "
            f"Mend them, or leave them out: max_bad={len(bad)}, on the command line --max-bad {len(bad)}"
        )


def unreadable(images: Sequence[OneImage], max_bad: int = 0) -> dict[int, str]:
    """Decode all pictures once, in threads, and find those that cannot be used: position -> what is wrong, with the file's name.

    Raises:
        UnreadableImages: more than ``max_bad``; the message names them.
    """

    def fault(image: OneImage) -> str | None:
        try:
            open_image(image)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool, _bar(images) as bar:
        bad = {}
        for number, found in enumerate(pool.map(fault, images)):
            bar.update()
            if found is not None:
                bad[number] = found if isinstance(images[number], str | Path) else f"image {number}: {found}"
    if len(bad) > max_bad:
        raise UnreadableImages(bad, len(images), max_bad)
    return bad


def left_out(bad: dict[int, str]) -> str:
    """A sentence about pictures that were left out."""
    return f"{len(bad):,} images are left out: {some(bad.values(), NAMED)}"


def _bar(images: Sequence[OneImage]) -> tqdm[None]:
    return tqdm(total=len(images), desc="reading", unit="image", disable=len(images) < 256, leave=False)
