"""What happens to evaluation batches: embeddings and generations -> metrics -> result records and prediction files."""

from unifashion_pl.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]
