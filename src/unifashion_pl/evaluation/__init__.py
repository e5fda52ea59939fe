"""What happens to evaluation batches: embeddings and generations -> metrics -> result records, prediction files, painted pictures."""

from unifashion_pl.evaluation.captions import CaptionPart
from unifashion_pl.evaluation.composed import ComposedPart
from unifashion_pl.evaluation.evaluator import Evaluator
from unifashion_pl.evaluation.part import Context, Outcome, Part, Setting, Stage
from unifashion_pl.evaluation.persons import PersonPart
from unifashion_pl.evaluation.pictures import ImagePart
from unifashion_pl.evaluation.retrieval import RetrievalPart
from unifashion_pl.inference.prediction import Painter

__all__ = [
    "CaptionPart",
    "ComposedPart",
    "Context",
    "Evaluator",
    "ImagePart",
    "Outcome",
    "Painter",
    "Part",
    "PersonPart",
    "RetrievalPart",
    "Setting",
    "Stage",
]
