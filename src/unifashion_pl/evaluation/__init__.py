"""What happens to evaluation batches: embeddings and generations -> metrics -> result records, prediction files, painted pictures."""

from unifashion_pl.evaluation.captions import CaptionPart as CaptionPart
from unifashion_pl.evaluation.composed import ComposedPart as ComposedPart
from unifashion_pl.evaluation.evaluator import Evaluator as Evaluator
from unifashion_pl.evaluation.naming import NamingPart as NamingPart
from unifashion_pl.evaluation.part import Context as Context
from unifashion_pl.evaluation.part import Outcome as Outcome
from unifashion_pl.evaluation.part import Part as Part
from unifashion_pl.evaluation.part import Setting as Setting
from unifashion_pl.evaluation.part import Stage as Stage
from unifashion_pl.evaluation.persons import PersonPart as PersonPart
from unifashion_pl.evaluation.pictures import ImagePart as ImagePart
from unifashion_pl.evaluation.retrieval import RetrievalPart as RetrievalPart
from unifashion_pl.inference.prediction import Painter as Painter
