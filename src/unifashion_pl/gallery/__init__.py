"""Search over a user's images. Names are imported on first use: a command that reads an index need not import what embeds images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifashion_pl.lazy import on_first_use

if TYPE_CHECKING:
    from unifashion_pl.gallery.gallery import Gallery, gallery_of
    from unifashion_pl.gallery.hits import Hit, Hits
    from unifashion_pl.gallery.session import Session

__all__ = ["Gallery", "Hit", "Hits", "Session", "gallery_of"]
__getattr__ = on_first_use(__name__, {"gallery": ("Gallery", "gallery_of"), "hits": ("Hit", "Hits"), "session": ("Session",)})
