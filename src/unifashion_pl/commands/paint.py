"""``generate``, ``tryon``, ``design``: paint images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl.commands.options import load_model, model_option

if TYPE_CHECKING:
    from PIL import Image

    from unifashion_pl.commands import Commands
    from unifashion_pl.module import UniFashionModule

#: Inputs of the person that are passed on by name where they are given.
PERSON = ("mask", "pose", "densepose", "parse", "agnostic", "box")


def add(commands: Commands) -> None:
    """Add ``generate``, ``tryon`` and ``design``."""
    generate = commands.add_parser("generate", help="paint an image from text, or from an image and a modifying text")
    generate.add_argument("prompt")
    generate.add_argument("--image", type=Path)
    _painting(generate, "generated.png").set_defaults(handler=_generate)
    tryon = commands.add_parser("tryon", help="paint a person wearing a garment")
    tryon.add_argument("person", type=Path)
    tryon.add_argument("garment", type=Path, nargs="+", help="several garments are painted side by side")
    _person(tryon).set_defaults(handler=_tryon)
    tryon.add_argument("--garment-guidance", type=float, help="by the garment's photo alone; 1 (default) = none")
    _painting(tryon, "tryon.png")
    design = commands.add_parser("design", help="paint a person in what a text and a sketch describe")
    design.add_argument("person", type=Path)
    design.add_argument("text")
    design.add_argument("--sketch", type=Path, help="light strokes on black")
    design.add_argument("--invert-sketch", action="store_true", help="the sketch has dark strokes on white")
    _person(design).set_defaults(handler=_design)
    _painting(design, "design.png")


def _person(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--mask", type=Path, help="white = repaint, in the person's proportions")
    parser.add_argument("--invert-mask", action="store_true", help="the mask says white = keep")
    parser.add_argument("--pose", type=Path, help="joints: OpenPose JSON, BODY-25 or COCO-18")
    parser.add_argument("--densepose", type=Path, help="body parts on black; goes before the joints")
    parser.add_argument("--parse", type=Path, help="label map of the person (LIP), to make a mask from")
    parser.add_argument("--agnostic", type=Path, help="the person with grey 128 where it is repainted, to make a mask from")
    parser.add_argument(
        "--box", type=float, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"), help="pixels, to make a mask from"
    )
    parser.add_argument("--as-painted", action="store_true", help="do not paste the photo back outside of the mask")
    return parser


def _painting(parser: argparse.ArgumentParser, out: str) -> argparse.ArgumentParser:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler", help="paper (default), fast, dpmpp, dpmpp_karras or ddim")
    parser.add_argument("--steps", type=int, help="default: the sampler's")
    parser.add_argument("--guidance", type=float, help="1 = none; default: by task")
    parser.add_argument("--out", type=Path, default=Path(out))
    return model_option(parser)


def _model(args: argparse.Namespace) -> UniFashionModule:
    """``--model``, once it is known that ``--out`` can be written: paintings take minutes."""
    from PIL import Image

    from unifashion_pl.files import check_writable

    if args.out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {args.out}: the ending says no kind of picture; use .png or .jpg")
    check_writable(args.out)
    return load_model(args)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("sampler", "steps", "guidance", "garment_guidance", *PERSON)
    return {"progress": True} | {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _generate(args: argparse.Namespace) -> int:
    model = _model(args)
    return _save(args, model.generate(args.prompt, image=args.image, seed=args.seed, **_settings(args)))


def _tryon(args: argparse.Namespace) -> int:
    model = _model(args)
    flags = {"invert_mask": args.invert_mask, "paste_back": not args.as_painted}
    return _save(args, model.try_on(args.person, args.garment, seed=args.seed, **flags, **_settings(args)))


def _design(args: argparse.Namespace) -> int:
    model = _model(args)
    flags = {"invert_mask": args.invert_mask, "invert_sketch": args.invert_sketch, "paste_back": not args.as_painted}
    made = model.design(args.person, args.text, sketch=args.sketch, seed=args.seed, **flags, **_settings(args))
    return _save(args, made)


def _save(args: argparse.Namespace, pictures: list[Image.Image]) -> int:
    """One picture, or several side by side."""
    from PIL import Image

    from unifashion_pl.files import replacing

    canvas = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width
    with replacing(args.out) as file:
        canvas.save(file, Image.registered_extensions()[args.out.suffix.lower()])
    print(args.out)
    return 0
