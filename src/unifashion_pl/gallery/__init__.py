"""Search over a user's images."""

from unifashion_pl.gallery.gallery import Gallery, Hit
from unifashion_pl.gallery.session import Session

__all__ = ["Gallery", "Hit", "Session"]
