"""Commands beside training: data, report, doctor, inference on the user's own files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Handler = Callable[[argparse.Namespace], int]

EPILOG = (
    "fit, validate, test, predict: LightningCLI commands, e.g. `unifashion fit --config phase2.yaml`; each has its own --help."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unifashion", description="UniFashion as a Lightning library.", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_data(commands.add_parser("data", help="the toy wardrobe, dataset checks, shards"))
    report = commands.add_parser("report", help="run folders -> one HTML page")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, default=Path("report.html"))
    report.set_defaults(handler=_report)
    caption = commands.add_parser("caption", help="describe images")
    caption.add_argument("images", nargs="+", type=Path)
    caption.add_argument("--style", default="fashiongen", choices=("fashion200k", "fashiongen", "fashioniq"))
    _model_option(caption).set_defaults(handler=_caption)
    generate = commands.add_parser("generate", help="paint an image from text, or from an image and a modifying text")
    generate.add_argument("prompt")
    generate.add_argument("--image", type=Path)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--out", type=Path, default=Path("generated.png"))
    _model_option(generate).set_defaults(handler=_generate)
    _add_index(commands.add_parser("index", help="search your own catalogue"))
    _add_ablations(commands.add_parser("ablations", help="the paper's Table 4 or 5 on the toy wardrobe: train, test, print"))
    doctor = commands.add_parser("doctor", help="versions, device, and what can run here")
    doctor.set_defaults(handler=_doctor)
    return parser


def _model_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .ckpt or a hub id")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    from unifashion_pl.data.check import DATASETS

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    wardrobe = actions.add_parser("wardrobe", help="write the procedural catalogue in the datasets' raw layouts")
    wardrobe.add_argument("--out", type=Path, required=True)
    wardrobe.add_argument("--size", default="demo", choices=("tiny", "demo"))
    wardrobe.add_argument("--products", type=int, help="number of training products instead of the size's")
    wardrobe.add_argument("--seed", type=int, default=0)
    wardrobe.add_argument("--workers", type=int)
    wardrobe.set_defaults(handler=_wardrobe)
    check = actions.add_parser("check", help="what of a dataset is there, missing or broken")
    shards = actions.add_parser("shards", help="raw layout -> WebDataset shards + index.json")
    for sub in (check, shards):
        sub.add_argument("dataset", choices=DATASETS)
        sub.add_argument("--root", type=Path, required=True)
    check.add_argument("--json", type=Path, help="also write the findings here")
    check.set_defaults(handler=_check)
    shards.add_argument("--out", type=Path, required=True)
    shards.add_argument("--workers", type=int, default=1)
    shards.add_argument("--allow-missing", action="store_true", help="build evaluation splits although samples are lost")
    shards.set_defaults(handler=_shards)


def _add_index(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="CSV + folder of images -> index")
    build.add_argument("--csv", type=Path, required=True)
    build.add_argument("--root", type=Path, required=True, help="folder of the images")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument(
        "--queries", default="both", choices=("reference", "target", "both"), help="reference: text or image; target: composed"
    )
    _model_option(build).set_defaults(handler=_index_build)
    search = actions.add_parser("search", help="by text, image, or image + modifying text")
    search.add_argument("index", type=Path)
    search.add_argument("--text")
    search.add_argument("--image", type=Path)
    search.add_argument("-k", type=int, default=10)
    _model_option(search).set_defaults(handler=_index_search)


def _add_ablations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", choices=("table4", "table5"))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the runs and the table; what is done in it is not done again"
    )
    parser.add_argument("--phase1-epochs", type=int, help="instead of phase1.yaml's")
    parser.add_argument("--phase2-steps", type=int, help="instead of phase2.yaml's")
    parser.add_argument("--seed", type=int, default=0, help="of training; the wardrobe stays the same")
    parser.add_argument("--size", default="demo", choices=("tiny", "demo"), help="of the wardrobe")
    parser.set_defaults(handler=_ablations)


def _wardrobe(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from unifashion_pl.wardrobe import SIZES, write_wardrobe

    spec = SIZES[args.size]
    if args.products is not None:
        spec = replace(spec, products_train=args.products)
    print(write_wardrobe(args.out, spec=spec, seed=args.seed, workers=args.workers))
    return 0


def _check(args: argparse.Namespace) -> int:
    from unifashion_pl.data.check import check_dataset

    report = check_dataset(args.dataset, args.root)
    print(report.text())
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if report.complete else 1


def _shards(args: argparse.Namespace) -> int:
    from unifashion_pl.data.check import build_shards

    for index in build_shards(args.dataset, args.root, args.out, workers=args.workers, allow_missing=args.allow_missing):
        print(index)
    return 0


def _report(args: argparse.Namespace) -> int:
    from unifashion_pl.report import build_report

    print(build_report(args.runs, args.out))
    return 0


def _caption(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule

    model = UniFashionModule.from_pretrained(args.model)
    for path, text in zip(args.images, model.caption(args.images, style=args.style)):
        print(f"{path}\t{text}")
    return 0


def _generate(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule

    model = UniFashionModule.from_pretrained(args.model)
    model.generate(args.prompt, image=args.image, seed=args.seed)[0].save(args.out)
    print(args.out)
    return 0


def _index_build(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule
    from unifashion_pl.datamodules.catalogue import read_catalogue

    model = UniFashionModule.from_pretrained(args.model)
    rows = read_catalogue(args.csv, args.root)
    gallery = model.gallery([row.image for row in rows], ids=[row.id for row in rows], query_set=args.queries)
    print(gallery.save(args.out))
    return 0


def _index_search(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule
    from unifashion_pl.gallery import Gallery

    gallery = Gallery.load(args.index, UniFashionModule.from_pretrained(args.model))
    for rank, hit in enumerate(gallery.search(text=args.text, image=args.image, k=args.k), 1):
        print(f"{rank}\t{hit.score:.4f}\t{hit.id}")
    return 0


def _ablations(args: argparse.Namespace) -> int:
    from unifashion_pl.ablations import Settings, make_table

    print(make_table(args.table, args.out, Settings(args.size, args.phase1_epochs, args.phase2_steps, args.seed)))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from unifashion_pl.doctor import examine

    print(examine())
    return 0


def run(argv: Sequence[str]) -> None:
    """Parse, run and exit with the command's status; errors about the user's input are one sentence, not a traceback."""
    args = _parser().parse_args(argv)
    try:
        status = args.handler(args)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f"unifashion {args.command}: {error}", file=sys.stderr)
        status = 2
    if status:
        raise SystemExit(status)
