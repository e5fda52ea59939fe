"""Search over a user's images."""

from unifashion_pl.gallery.gallery import Gallery, gallery_of
from unifashion_pl.gallery.session import Hit, Session

__all__ = ["Gallery", "Hit", "Session", "gallery_of"]
