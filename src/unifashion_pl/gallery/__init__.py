"""Search over a user's images. Names are imported on first use: a command that reads an index need not import what embeds images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifashion_pl.gallery.gallery import Gallery, gallery_of
    from unifashion_pl.gallery.hits import Hit
    from unifashion_pl.gallery.session import Session

__all__ = ["Gallery", "Hit", "Session", "gallery_of"]
PLACES = {"Gallery": "gallery", "gallery_of": "gallery", "Hit": "hits", "Session": "session"}


def __getattr__(name: str) -> Any:
    if name in PLACES:
        from importlib import import_module

        return getattr(import_module(f"unifashion_pl.gallery.{PLACES[name]}"), name)
    raise AttributeError(f"module 'unifashion_pl.gallery' has no attribute {name!r}")
