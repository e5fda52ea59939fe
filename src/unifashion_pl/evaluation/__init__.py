"""What happens to evaluation batches: embeddings and generations -> metrics -> result records, prediction files, painted pictures."""

from unifashion_pl.evaluation.evaluator import Evaluator
from unifashion_pl.evaluation.painting import Painter

__all__ = ["Evaluator", "Painter"]
