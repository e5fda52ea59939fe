"""Every stage of the paper at its true size on a CPU with 24 GB, one step each, from downloads in their genuine form with random weights.

    make paper-smoke                                                             # under half an hour, 60 GB of disk
    PYTHONPATH=tests python benchmarks/paper_smoke.py --out OUT --scale tiny     # the same at toy sizes, in minutes

Downloads are written as their publishers give them out (:mod:`paper_files`), imported by ``unifashion weights import``, and each stage is
``unifashion fit`` with the shipped overlays as they are, in a process of its own: hub ids are answered from a cache in the hub's layout,
``init_from`` finds what the stages before it saved, data are the toy wardrobe in the datasets' own layouts. Only the batch is small. Where
memory or time of such a machine do not reach, the table says what was done instead: language models of fewer layers, no optimiser's step.
Processors without products of bfloat16 compute them in float32 (:mod:`wide_products`), which is said there too.
Last, a try-on picture is painted in two steps by the model that the try-on stage saved.

``OUT/paper_smoke.json`` and ``.md`` are written anew after every stage. The exit status is 1 if a stage failed or a gradient is wrong.
Gradients are measured before clipping; peak memory counts resident pages of mapped files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paper_files
import peers
import torch
import yaml
from paper_files import DOWNLOADS, Sizes
from paper_parts import TRAININGS, environment, shrink
from paper_record import GIB, Enough, peak
from wide_products import multiplies_bfloat16, wide_products

from unifashion_pl.configs import read_config
from unifashion_pl.trainings import working_in

#: Layers of the language model where the whole does not fit.
FEW = 4
NOBODY = f"weights/vicuna-{FEW}"


@dataclass(frozen=True)
class Stage:
    """A training's step.

    Attributes:
        case: its name among :data:`paper_parts.TRAININGS`.
        options: of ``unifashion fit``, beside those of all stages.
        saves: a later stage starts from its checkpoint.
        update: take the optimiser's step too.
        note: what is not as the overlays have it.
    """

    name: str
    case: str
    options: tuple[str, ...]
    saves: bool = False
    update: bool = True
    note: str = ""


LLM = "--model.caption.init_args.language_model.init_args.source"
_PAIRS = ("--data.batch_size", "3")
_FEW = f"language model of {FEW} layers"
STAGES = (
    Stage("representation", "representation", ("--data.batch_size", "4"), saves=True),
    Stage("llm", "llm", _PAIRS, update=False, note="no optimiser's step"),
    Stage(f"llm, {FEW} layers", "llm", (*_PAIRS, LLM, NOBODY), saves=True, note=_FEW),
    Stage("diffusion", "diffusion", _PAIRS, saves=True),
    Stage("joint", "joint", (*_PAIRS, LLM, NOBODY), update=False, note=f"{_FEW}; no optimiser's step"),
    Stage("phase 2", "phase2", (*_PAIRS, "--data.triplet_batch_size", "2", LLM, NOBODY), note=_FEW),
    Stage("try-on", "tryon", ("--data.batch_size", "2"), saves=True),
    Stage("design", "design", ("--data.batch_size", "2")),
)
#: Eq. 8 as one training, which the paper's stages take apart: runs if it is named.
ASKED = ("joint",)
#: What is downloaded -> how it is imported, and the hub id that stands for the outcome.
IMPORTS = {
    "eva_vit_g.pth": None,
    "blip2_pretrained.pth": ("weights/blip2", ("--tower", "downloads/eva_vit_g.pth"), None),
    "sd/sd-v1-4.ckpt": ("weights/sd", (), paper_files.SD),
    "pbe/model.ckpt": ("weights/pbe", ("--as", "pbe"), None),
    "VITONHD_VAE_finetuning.ckpt": ("weights/vae-viton", ("--as", "vae"), None),
    "vicuna-7b-v1.5": ("weights/vicuna", (), paper_files.VICUNA),
}


@dataclass
class Smoke:
    """A run of all stages.

    Attributes:
        work: the folder that is the current one of every command.
        together: no processes of their own; memory says nothing then.
        rows: what was seen so far.
    """

    out: Path
    work: Path
    tiny: bool
    together: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        return paper_files.tiny_sizes() if self.tiny else paper_files.paper_sizes()

    @property
    def environ(self) -> dict[str, str]:
        """Of every command: the hub is its cache below :attr:`work`, and there is no GPU."""
        env = {**os.environ, "HF_HOME": str(self.work / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        path = os.pathsep.join(str(Path(module.__file__).parent) for module in (paper_files, peers))  # type: ignore[arg-type]
        return {**env, "PYTHONPATH": path}

    def download(self, name: str, path: Path) -> None:
        """Write what stands for a download; in a process of its own, whose memory later ones do not inherit as theirs."""
        if self.together:
            DOWNLOADS[name](path, self.sizes)
            return
        args = ["--inside", str(path.resolve()), "write", name, *(["tiny"] if self.tiny else [])]
        subprocess.run([sys.executable, str(Path(__file__).resolve()), *args], env=self.environ, check=True)

    def command(self, name: str, args: Sequence[str], path: Path, note: str = "") -> dict[str, Any]:
        """Run :func:`inside` in a process of its own; what it recorded, and how it ended."""
        path.unlink(missing_ok=True)
        begun, used = time.monotonic(), sum(os.times()[:4])
        failed = self._together(args, path) if self.together else self._apart(args, path)
        row: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        row |= {"name": name, "seconds": time.monotonic() - begun, "processor": sum(os.times()[:4]) - used}
        row |= {"failed": failed, "note": note}
        self.rows.append(row)
        self.write()
        print(f"{name}: {f'FAILED: {failed}' if failed else summary(row)}", flush=True)
        return row

    def _apart(self, args: Sequence[str], path: Path) -> str:
        """What went wrong; empty = nothing. What the process said is in a ``.log`` beside the record."""
        here, log = [sys.executable, str(Path(__file__).resolve()), "--inside", str(path), *args], path.with_suffix(".log")
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(here, cwd=self.work, env=self.environ, stdout=stream, stderr=subprocess.STDOUT, check=False)
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        return "" if not done.returncode else lines[-1][:300] if lines else f"ended by {done.returncode}"

    def _together(self, args: Sequence[str], path: Path) -> str:
        with working_in(self.work):
            try:
                inside(path, args)
            except Exception as error:
                return f"{type(error).__name__}: {error}"[:300]
        return ""

    def write(self) -> None:
        """``paper_smoke.json`` and ``.md``."""
        where = environment(torch.device("cpu"), self.tiny)
        (self.out / "paper_smoke.json").write_text(
            json.dumps({"environment": where, "rows": self.rows}, indent=1) + "\n", "utf-8"
        )
        (self.out / "paper_smoke.md").write_text(table(where, self.rows), "utf-8")


def prepare(smoke: Smoke) -> None:
    """The wardrobe, the downloads, one at a time, and their imports; a download is removed once it is imported."""
    from unifashion_pl.wardrobe import WardrobeSpec, write_wardrobe

    size = (96, 128) if smoke.tiny else (384, 512)
    few = {
        "products_train": 12,
        "products_val": 6,
        "fiq_train": 8,
        "fiq_val": 2,
        "fiq_gallery": 6,
        "short_train": 12,
        "short_test": 4,
    }
    spec = WardrobeSpec(**few, image_size=64 if smoke.tiny else 256, tryon_train=4, tryon_test=3, tryon_size=size)  # type: ignore[arg-type]
    write_wardrobe(smoke.work / "data", spec=spec, workers=1, layouts=["mgd"], progress=False)
    cache, downloads = smoke.work / "hf", smoke.work / "downloads"
    paper_files.bert_folder(smoke.work / "bert")
    paper_files.in_hub_cache(cache, paper_files.BERT, smoke.work / "bert")
    for name, how in IMPORTS.items():
        begun, path = time.monotonic(), downloads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smoke.download(name, path)
        print(f"written: {name} in {time.monotonic() - begun:.0f} s", flush=True)
        if how is None:
            continue
        out, options, hub = how
        row = smoke.command(
            f"import {name}", ["import", str(path), "--out", out, *options], smoke.out / f"import-{path.name}.json"
        )
        if row["failed"]:
            raise SystemExit(f"the import of {name} failed: {row['failed']}")
        if hub is not None:
            paper_files.in_hub_cache(cache, hub, smoke.work / out)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    fewer_layers(smoke.work / "weights/vicuna", smoke.work / NOBODY, 1 if smoke.tiny else FEW)


def fewer_layers(whole: Path, out: Path, layers: int) -> None:
    """A language model's folder whose config names fewer layers; its tensors are the whole one's, by links."""
    out.mkdir()
    for path in whole.iterdir():
        (out / path.name).symlink_to(path.resolve())
    (out / "config.json").unlink()
    config = json.loads((whole / "config.json").read_text("utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), "utf-8")


def fit_arguments(stage: Stage, tiny: Path | None) -> list[str]:
    """``fit`` and its options: the shipped overlays, and what a CPU and a single step need."""
    configs = next(case.configs for case in TRAININGS if case.name == stage.case)
    layers = [*configs, *([] if tiny is None else [str(small(configs, tiny))])]
    args = ["fit", *(part for name in layers for part in ("--config", name)), *stage.options]
    args += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.max_steps",
        "1",
        "--trainer.limit_val_batches",
        "0",
    ]
    args += ["--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"]
    if stage.case == "tryon":
        args += ["--trainer.callbacks.init_args.every_n_train_steps", "1"]
    if not stage.saves:
        args += ["--trainer.enable_checkpointing", "false"]
    return args


def small(configs: Sequence[str], folder: Path) -> Path:
    """The overlay of ``--scale tiny``: without what the sources themselves say, with pictures of its size."""
    content = read_config(shrink(list(configs), folder))
    model = content["model"]
    for head in (model.get("caption"), model.get("diffusion")):
        for part in (head or {"init_args": {}})["init_args"].values():
            if isinstance(part, dict):
                part["init_args"] = {k: v for k, v in part["init_args"].items() if k not in ("config", "source")}
    pixels = model["diffusion"]["init_args"]["size"] if model.get("diffusion") else None
    content["data"] = {
        "init_args": {"image_size": model["backbone"]["init_args"]["vision"]["init_args"]["image_size"], "pixel_size": pixels}
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def inside(path: Path, args: Sequence[str]) -> None:
    """What :meth:`Smoke.command` runs: ``import …``, ``fit …`` or ``try_on``; the record goes into ``path``. Or ``write DOWNLOAD``."""
    doing: dict[str, Callable[[Path, Sequence[str]], None]] = {"import": _import, "fit": _fit, "try_on": _try_on}
    if args[0] == "write":
        DOWNLOADS[args[1]](path, paper_files.tiny_sizes() if args[2:] else paper_files.paper_sizes())
        return
    doing[args[0]](path, args[1:])
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**found, "peak_gib": peak()}, indent=1) + "\n", "utf-8")


def _import(path: Path, args: Sequence[str]) -> None:
    from unifashion_pl.cli.main import main

    main(["weights", "import", *args])


def _fit(path: Path, args: Sequence[str]) -> None:
    from unifashion_pl.cli.training import train

    update, saves = (word in args for word in ("update", "saves"))
    options = [word for word in args if word not in ("update", "saves")]
    recorder = [f"--trainer.callbacks{'+' if saves else ''}=paper_record.Recorder", f"--trainer.callbacks.path={path}"]
    with suppress(Enough), wide_products():
        train(["fit", *options, *recorder, f"--trainer.callbacks.update={str(update).lower()}"])


def _try_on(path: Path, args: Sequence[str]) -> None:
    """Read the try-on stage's checkpoint for inference, and paint a picture in two steps."""
    from unifashion_pl import UniFashionModule

    before, begun = peak(), time.monotonic()
    model = UniFashionModule.from_pretrained("runs/tryon/checkpoints/last.ckpt")
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers())) / GIB
    record = {"before_gib": before, "model_gib": held, "built_gib": peak(), "load_seconds": time.monotonic() - begun}
    test = Path("data/viton-hd/test")
    name = sorted(test.glob("image/*.jpg"))[0].stem
    begun = time.monotonic()
    with wide_products():
        picture = model.try_on(
            test / f"image/{name}.jpg", test / f"cloth/{name}.jpg", test / f"agnostic-mask/{name}_mask.png",
            test / f"openpose_json/{name}_keypoints.json", steps=2,
        )[0]  # fmt: skip
    picture.save(path.with_suffix(".png"))
    path.write_text(
        json.dumps({**record, "step_seconds": time.monotonic() - begun, "size": picture.size, "wrong": []}), "utf-8"
    )


def summary(row: dict[str, Any]) -> str:
    """One line for people."""
    losses = ", ".join(f"{name} {value:.3f}" for name, value in sorted(row.get("losses", {}).items()))
    wrong = f"; WRONG: {row['wrong'][:3]}" if row.get("wrong") else ""
    return f"{row['seconds']:.0f} s, peak {row.get('peak_gib', 0):.1f} GiB" + (f"; {losses}" if losses else "") + wrong


def table(where: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a stage, and then gradients by part."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        f"{where['date']}, commit {where['commit']}, scale {where['scale']}, {where['threads']} threads, {versions}. Random weights."
        + (
            ""
            if multiplies_bfloat16()
            else " This processor has no products of bfloat16: they are computed in float32 and rounded."
        ),
        "",
        "| stage | rows | s in all | s of the step | processor s in all | peak GiB | losses | |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        losses = ", ".join(f"{n.removeprefix('train/')} {v:.3f}" for n, v in sorted(row.get("losses", {}).items()))
        counts = ", ".join(f"{n} {v}".strip() for n, v in row.get("rows", {}).items())
        step = row.get("step_seconds", row.get("backward_seconds"))
        says = (
            f"FAILED: {row['failed']}"
            if row["failed"]
            else "; ".join([row.get("note", ""), *row.get("wrong", [])[:3]]).strip("; ")
        )
        shown = "" if step is None else f"{step:.0f}"
        lines.append(
            f"| {row['name']} | {counts} | {row['seconds']:.0f} | {shown} | {row['processor']:.0f} | {row.get('peak_gib', 0):.1f} "
            f"| {losses} | {says} |"
        )
    trained = [row for row in rows if row.get("parts")]
    if trained:
        lines += ["", f"Norm of the gradients | {' | '.join(row['name'] for row in trained)}".join(("| ", " |"))]
        lines += [f"|---|{'---:|' * len(trained)}"]
        for part in dict.fromkeys(part for row in trained for part in row["parts"]):
            lines.append(f"| {part} | {' | '.join(_cell(row['parts'].get(part)) for row in trained)} |")
    return "\n".join(lines) + "\n"


def _cell(part: dict[str, Any] | None) -> str:
    if part is None:
        return "–"
    if not part["trains"]:
        return "."
    return f"{part['norm']:.2g}" + (
        "" if part["finite"] == part["trains"] else f" ({part['trains'] - part['finite']} not finite)"
    )


def run(smoke: Smoke, wanted: Sequence[str]) -> None:
    """The imports if they are not there yet, then the stages that are wanted, in their order."""
    smoke.out.mkdir(parents=True, exist_ok=True)
    if not (smoke.work / NOBODY).is_dir():
        prepare(smoke)
    for stage in STAGES:
        if stage.name in wanted:
            file = smoke.out / f"{stage.name.replace(', ', '-').replace(' ', '-')}.json"
            marks = [word for word, true in (("update", stage.update), ("saves", stage.saves)) if true]
            smoke.command(
                stage.name, [*fit_arguments(stage, smoke.work / "small" if smoke.tiny else None), *marks], file, stage.note
            )
    if "try_on" in wanted:
        smoke.command("try_on", ["try_on"], smoke.out / "try_on.json")
    smoke.write()


def main() -> None:
    names = [*(stage.name for stage in STAGES), "try_on"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="of the table, the records and the logs")
    parser.add_argument("--work", type=Path, help="of downloads, imports and runs; default OUT/work, removed afterwards")
    parser.add_argument("--scale", choices=("paper", "tiny"), default="paper")
    parser.add_argument(
        "--stages", default="/".join(name for name in names if name not in ASKED), help=f"of {' / '.join(names)}"
    )
    parser.add_argument("--together", action="store_true", help="all stages in one process, for tests")
    args = parser.parse_args()
    if unknown := set(args.stages.split("/")) - set(names):
        parser.error(f"unknown stages {sorted(unknown)}; known are {' / '.join(names)}")
    work = (args.work or args.out / "work").resolve()
    smoke = Smoke(args.out.resolve(), work, args.scale == "tiny", args.together)
    if args.together and os.environ.get("HF_HOME") != smoke.environ["HF_HOME"]:  # read when the libraries are imported
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=smoke.environ, check=False).returncode)
    work.mkdir(parents=True, exist_ok=True)
    run(smoke, args.stages.split("/"))
    if args.work is None:
        shutil.rmtree(work)
    print((smoke.out / "paper_smoke.md").read_text("utf-8"))
    if any(row["failed"] or row.get("wrong") for row in smoke.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    inside(Path(sys.argv[2]), sys.argv[3:]) if sys.argv[1:2] == ["--inside"] else main()
