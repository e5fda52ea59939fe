"""Everything that reads what others wrote."""

from __future__ import annotations

import fuzz.annotations as text
from fuzz import models, pictures, results, shards

TARGETS = (*pictures.TARGETS, *text.TARGETS, *shards.TARGETS, *results.TARGETS, *models.TARGETS)
