"""Robustness of composed retrieval on the toy wardrobe: other words, denied words, several rounds, products instead of views.

    python benchmarks/robustness.py [--model tiny] [--rounds 4] [--out FOLDER]

The model is asked what `unifashion test` asks with `evaluator: {robustness: true}`, and then searches in several rounds with a simulated
user who knows the target and names the attributes in which a candidate differs from it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from dialogues import ComposedQuery, multi_round
from unifashion_pl.datamodules.benchmark import FOLDERS
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import GalleryBatch, PairBatch, QueryBatch
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.metrics.records import ResultRecord, read_records
from unifashion_pl.wardrobe.feedback import WardrobeFeedback

#: The records that are printed; all are written to `--out`.
SHOWN = ("changed", "R@10", "overlap@10", "rank_falls", "score_falls", "t2i/R@1", "t2i/R@10")
CATEGORIES = ("dress", "shirt", "toptee")
Gallery = dict[str, dict[str, Path]]


def evaluate(model: UniFashionModule, data: WardrobeDataModule, out: Path) -> list[ResultRecord]:
    """The test with rewritten texts and product recall; captions and images left out."""
    evaluator = Evaluator(robustness=True, max_captions=0, max_images=0, shown=0)
    evaluator.start("test")
    for loader in data.test_dataloader():
        for batch in loader:
            if isinstance(batch, PairBatch | GalleryBatch | QueryBatch):
                evaluator.update(model, batch)
    evaluator.finish(out)
    return [r for r in read_records(out / "results.json") if r.under.robustness]


def galleries(root: Path) -> Gallery:
    """Category -> image id -> picture of the whole validation split."""
    found: Gallery = {}
    for category in CATEGORIES:
        ids = json.loads((root / "image_splits" / f"split.{category}.val.json").read_text())
        found[category] = {key: root / "images" / f"{key}.jpg" for key in ids}
    return found


def queries(root: Path) -> dict[str, list[ComposedQuery]]:
    """Category -> the validation queries; their first text is the feedback's."""
    found: dict[str, list[ComposedQuery]] = defaultdict(list)
    for category in CATEGORIES:
        for number, entry in enumerate(json.loads((root / "captions" / f"cap.{category}.val.json").read_text())):
            found[category].append(ComposedQuery(f"{category}-{number}", entry["candidate"], entry["target"]))
    return found


def row(record: ResultRecord) -> str:
    span = f"{record.interval.low:.1f}–{record.interval.high:.1f}" if record.interval else ""
    value = "not measured" if record.value is None else f"{record.value:.1f}"
    return f"| {record.metric} | {value} | {span} | {record.n:,} | `{record.protocol}` |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size", choices=("demo", "tiny"), default="demo", help="of the wardrobe")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("robustness"))
    args = parser.parse_args()
    model = UniFashionModule.from_pretrained(args.model)
    data = WardrobeDataModule(size=args.size, pairs=True, triplets=True, image_size=model.backbone.vision.image_size)
    data.prepare_data()
    data.setup("test")
    print("| | value | 95 % interval | n | protocol |\n|---|---|---|---|---|")
    for record in evaluate(model, data, args.out / "test"):
        if record.metric.removesuffix("/original").removesuffix("/difference") in SHOWN:
            print(row(record))
    root = data.folder / "raw" / FOLDERS["fashioniq"]
    pictures, asked = galleries(root), queries(root)
    feedback = WardrobeFeedback.of(args.size)
    for category in CATEGORIES:
        searches = [q for q in asked[category] if feedback(q.reference, q.target) is not None]
        found = multi_round(model, pictures[category], searches, feedback, args.rounds, ks=(1,), data=f"wardrobe-{category}")
        found.write(args.out / category)
        for record in found.records:
            print(row(record))


if __name__ == "__main__":
    main()
