"""UniFashion (arXiv 2408.11305) as a PyTorch Lightning library.

``from unifashion_pl import UniFashionModule`` is the entry for notebooks; names are imported on first use so that importing the
package stays fast and touches neither network nor GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifashion_pl.lazy import on_first_use
from unifashion_pl.version import __version__

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

__all__ = ["UniFashionModule", "__version__"]
__getattr__ = on_first_use(__name__, {"module": ("UniFashionModule",)})
