"""``export``: a model for the runtimes and libraries of others."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unifashion_pl.commands.options import Columns, Model
from unifashion_pl.commands.signature import FOLDER

if TYPE_CHECKING:
    from unifashion_pl.export.parity import Material


@dataclass(kw_only=True)
class Photos:
    """What the export is compared on."""

    photos: Annotated[Path | None, "compare on the pictures of this folder; default: drawn garments"] = None
    csv: Annotated[Path | None, "… or on those of a CSV, and on its texts, as `index build` reads it"] = None
    root: Annotated[Path | None, "with --csv: folder of the images"] = None
    columns: Columns = None
    limit: Annotated[int, {"metavar": "N", "help": "of them so many, drawn at random; default 256"}] = 256

    def material(self) -> Material | None:
        """Pictures and texts, checked; None where nothing was named.

        Raises:
            ValueError: options that do not go together, fewer than two pictures, or pictures that cannot be read.
        """
        from unifashion_pl.arguments import count
        from unifashion_pl.data.plan import shortened
        from unifashion_pl.datamodules.catalogue_rows import read_catalogue
        from unifashion_pl.export.parity import Material, drawings
        from unifashion_pl.inference.images import unreadable
        from unifashion_pl.inference.multi_vector import PICTURES

        most = count(self.limit, "limit")
        if self.photos is not None and self.csv is not None:
            raise ValueError("name --photos or --csv, not both")
        if (self.csv is None) != (self.root is None):
            raise ValueError("--csv and --root go together")
        if self.csv is not None and self.root is not None:
            rows = read_catalogue(self.csv, self.root, self.columns)
            kept = random.Random(0).sample(rows, min(most, len(rows)))
            paths, texts = [row.image for row in kept], [*dict.fromkeys(row.text for row in kept if row.text.strip())]
        elif self.photos is not None:
            if not self.photos.is_dir():
                raise ValueError(f"--photos {self.photos} is no folder")
            found = sorted(path for path in self.photos.rglob("*") if path.suffix.lower() in PICTURES)
            paths, texts = random.Random(0).sample(found, min(most, len(found))), []
        else:
            return None
        if len(paths) < 2:
            raise ValueError(f"{self.csv or self.photos} has {len(paths)} pictures: a comparison needs at least two")
        if bad := unreadable(paths, len(paths)):
            raise ValueError(f"{shortened(bad.values(), 3)}: mend or remove it, or name other pictures")
        return Material(paths, texts or drawings().texts, str(self.csv or self.photos))


def export(
    model: Annotated[str, "tiny, a folder, a .ckpt or a hub id"],
    *,
    out: Annotated[Path, FOLDER],
    format: Annotated[
        Literal["onnx", "torch", "peft", "diffusers"],
        "onnx: for onnxruntime and others, and for `index search --model OUT`; torch: .pt2 files of torch.export; peft: the LoRA of its language "
        "model as an adapter's folder; diffusers: what paints, as a pipeline's folder",
    ] = "onnx",
    dtype: Annotated[Literal["fp32", "fp16", "int8"], "of the weights; what is lost stands in the report"] = "fp32",
    part: Annotated[
        list[str] | None,
        {"metavar": "PART", "help": "image, text or compose, may be repeated; default: all that the model has learned"},
    ] = None,
    photos: Photos,
    trust_remote_code: Annotated[
        bool, "let the model name classes that are not of this library; they may run any program"
    ] = False,
) -> None:
    """Graphs of a model's embeddings for other runtimes, compared with it on your photos; or its LoRA for peft, its painting head for diffusers."""
    loaded = Model(model=model, trust_remote_code=trust_remote_code, device="cpu")
    if format == "peft" or format == "diffusers":
        if dtype != "fp32" or part or photos != Photos():
            what = "LoRA" if format == "peft" else "head that paints"
            raise ValueError(
                f"--format {format} writes the {what} as it is: --dtype, --part, --photos, --csv and --limit are of onnx and torch"
            )
        loaded.heads = ("caption",) if format == "peft" else ("diffusion",)  # type: ignore[misc]
        if format == "peft":
            from unifashion_pl.export.adapter import export_adapter as write_folder
        else:
            from unifashion_pl.export.diffusers_folder import export_diffusers as write_folder
        print(write_folder(loaded.load(), out))
        return
    from unifashion_pl.export.folder import export as write

    loaded.heads = ("retrieval",)  # type: ignore[misc]
    print(write(loaded.load(), out, format, dtype, part, photos.material()).text(), end="")
    print(f"-> {out}")
