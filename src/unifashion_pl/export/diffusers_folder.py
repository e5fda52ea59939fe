"""The diffusion head as a folder of diffusers: U-Net, autoencoder, scheduler and text encoder in its layout, the rest with the classes that read it.

Nothing in the folder needs this library: the garment branch's and the context's classes are written out with the sources that they are made of.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unifashion_pl.export import pipeline
from unifashion_pl.export.components import UniFashionConditioning, UniFashionGarment
from unifashion_pl.files import replacing_folder, write_text
from unifashion_pl.generation import garment, placed_attention
from unifashion_pl.generation.samplers import build_scheduler
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.tasks.conditioning import ResidualMLP
from unifashion_pl.tasks.eval_mode import evaluating
from unifashion_pl.version import __version__

INDEX = "model_index.json"
#: Files of classes, as model_index.json names them.
GARMENT, CONDITIONING, PIPELINE = "unifashion_garment", "unifashion_conditioning", "pipeline"
#: Largest difference of one evaluation of what diffusers loads from the model's own.
TOLERANCE = 1e-4
#: Name of ours -> of schedulers.
PREDICTIONS = {0: "epsilon", 1: "v_prediction"}


def export_diffusers(model: FashionModel, out: str | Path) -> str:
    """Write ``model_index.json``, the parts and ``pipeline.py``; diffusers loads them, and what it has loaded is compared, before the folder is there.

    Adapters (LoRA) on the U-Net are added to its weights.

    Args:
        model: on the CPU, with a diffusion head.
        out: a folder that is new, empty, or an earlier export, which is replaced.

    Returns:
        What was written, and how it is loaded.

    Raises:
        RuntimeError: no diffusion head, one of another class, or what diffusers loads computes something else.
        FileExistsError: something else is in the folder.
    """
    head = head_of(model, "diffusion")
    if not isinstance(head, DiffusionModule):
        raise RuntimeError(
            f"this model's diffusion head is a {type(head).__name__}, expected a DiffusionModule: write a pipeline for it"
        )
    place = Path(out)
    if place.is_dir() and any(place.iterdir()) and not (place / INDEX).is_file():
        raise FileExistsError(f"{place} holds other files: name a new folder, or one of an earlier export, which is replaced")
    with replacing_folder(out) as folder, evaluating(head), torch.no_grad():
        parts = _write_parts(head, folder)
        index = {"_class_name": [PIPELINE, "UniFashionPipeline"], "_diffusers_version": _version(), **parts}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
        write_text(folder / f"{PIPELINE}.py", inspect.getsource(pipeline))
        write_text(folder / "README.md", _readme(model, head))
        apart = compare(head, folder)
        if not apart <= TOLERANCE:
            raise RuntimeError(
                f"what diffusers loads is not the model's: noise differs by {apart:.3g}, allowed {TOLERANCE}. Nothing was written"
            )
    return (
        f'DiffusionPipeline.from_pretrained("{place}", trust_remote_code=True)\n'
        f"an evaluation of the U-Net differs from the model's by {apart:.2g} at most\n"
        f"-> {place} (README.md there says what the pipeline reads)"
    )


def _write_parts(head: DiffusionModule, folder: Path) -> dict[str, list[str | None]]:
    """Parts as folders -> their lines of model_index.json."""
    denoiser = head.denoiser
    unet = plain_unet(denoiser.unet)
    kept: dict[str, Any] = {"unet": unet, "vae": _contiguous(head.vae.model)}
    scheduler = build_scheduler("paper")
    kind = PREDICTIONS[int(denoiser.predicts_v)]
    kept["scheduler"] = type(scheduler).from_config(scheduler.config, prediction_type=kind)
    kept["conditioning"] = conditioning_of(head)
    index: dict[str, list[str | None]] = {
        "garment_branch": [None, None],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    if head.text_encoder is not None:
        kept |= {"text_encoder": head.text_encoder.model, "tokenizer": head.text_encoder.tokenizer}
    if denoiser.garment is not None:
        kept["garment_branch"] = garment_of(denoiser.garment, unet)
        write_text(folder / "garment_branch" / f"{GARMENT}.py", garment_source())
    write_text(folder / "conditioning" / f"{CONDITIONING}.py", conditioning_source())
    for name, part in kept.items():
        with _without_bars():
            part.save_pretrained(folder / name)
        library = type(part).__module__.split(".")[0]
        own = {"garment_branch": GARMENT, "conditioning": CONDITIONING}
        index[name] = [own.get(name, library), type(part).__name__]
    return index


def plain_unet(unet: Any) -> Any:
    """A copy of a U-Net with its adapters added to its weights."""
    copied: Any = _contiguous(unet)
    if getattr(copied, "peft_config", None):
        copied.fuse_lora()
        copied.unload_lora()
    return copied


def _contiguous(part: nn.Module) -> nn.Module:
    """A copy in torch's usual layout of memory, which safetensors wants."""
    return copy.deepcopy(part).to(memory_format=torch.contiguous_format)


def garment_of(branch: garment.GarmentBranch, unet: Any) -> UniFashionGarment:
    """A garment branch as diffusers writes it."""
    full = hasattr(branch.encoder, "mid_block")
    heads = {place.heads for place in branch.places}
    usual = [place.heads for place in garment.places(unet)] == [place.heads for place in branch.places]
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    made: Any = UniFashionGarment(
        config, "full" if full else "truncated", heads=None if usual else heads.pop(), positions=branch.positions
    )
    made.branch.load_state_dict(_contiguous(branch).state_dict(), assign=True)
    return made


def conditioning_of(head: DiffusionModule) -> UniFashionConditioning:
    """Adapter and null token as diffusers writes them."""
    own, width = head.adapter, head.denoiser.context_width
    kind = None if own is None else "residual_mlp" if isinstance(own, ResidualMLP) else "linear"
    made: Any = UniFashionConditioning(
        own.in_features if isinstance(own, nn.Linear) else width,
        width,
        kind,
        num_queries=int(head.num_queries),
        size=head.size,
        edit_size=head.edit_size,
        guidance=head.guidance,
        panels=head.denoiser.panels,
    )
    if own is not None:
        made.projection.load_state_dict(own.state_dict())
    made.null_context.data.copy_(head.null_context)
    return made


def garment_source() -> str:
    """The file of the garment branch's class."""
    said = '"""The garment branch of UniFashion (arXiv 2408.11305), written out by unifashion-pl for diffusers."""\n\n'
    checked = "def choice(value, name, known):\n    return value  # names were checked when the model was built\n"
    alone = "from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel\nfrom diffusers.configuration_utils import register_to_config\n"
    parts = [without_ours(placed_attention), checked, without_ours(garment), alone, inspect.getsource(UniFashionGarment)]
    return said + "from __future__ import annotations\n\n" + "\n\n".join(parts)


def conditioning_source() -> str:
    """The file of the context's class."""
    said = '"""The context of UniFashion\'s U-Net (arXiv 2408.11305), written out by unifashion-pl for diffusers."""\n\n'
    alone = (
        "from __future__ import annotations\n\nfrom typing import Any, Literal\n\nimport torch\nfrom diffusers import ConfigMixin, ModelMixin\n"
        "from diffusers.configuration_utils import register_to_config\nfrom torch import Tensor, nn\n"
    )
    return said + "\n\n".join([alone, inspect.getsource(ResidualMLP), inspect.getsource(UniFashionConditioning)])


def without_ours(module: ModuleType) -> str:
    """A module's source without its docstring and its imports of this library and of ``__future__``."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    tree = ast.parse(source)
    gone = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("unifashion_pl", "__future__")
    ]
    for node in [tree.body[0], *gone]:
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = ""
    return "\n".join(lines).strip() + "\n"


@torch.no_grad()
def compare(head: DiffusionModule, folder: str | Path) -> float:
    """The largest difference of noise, as diffusers loads the folder and as the head predicts it, all conditions given; in 32 bits."""
    from diffusers import DiffusionPipeline

    with _without_bars():
        loaded: Any = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    own = head if all(p.dtype == torch.float32 for p in head.parameters()) else copy.deepcopy(head).float()
    drawn = torch.Generator().manual_seed(0)
    grid = [side // head.vae.factor for side in head.edit_size]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn)

    latents, t = draw(2, 4, *grid), torch.tensor([481, 481])
    queries = None if own.adapter is None else draw(2, int(own.num_queries), loaded.conditioning.config.query_width)
    texts = ["a red dress", ""]
    if own.text_encoder is None and queries is None:
        raise RuntimeError("the context has neither queries nor text")
    context = own.build_context(queries, texts)
    shown: dict[str, Tensor] = {}
    if own.denoiser.in_channels != latents.shape[1]:
        shown = {"person": draw(2, 4, *grid), "keep": draw(2, 1, *grid).sigmoid(), "pose": draw(2, 4, *grid)}
    reads = own.denoiser.reads_garments
    shown |= {"garment": draw(2, 4, *grid)} if reads else {}
    found = loaded._noise(latents, t[0], loaded._context(texts, queries, None, latents.device), shown, [reads] * 2)
    return float((found - own.denoiser(latents, t, context, **shown)).abs().max())


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    shown = [one for one in (ours, theirs) if one.is_progress_bar_enabled()]
    for one in shown:
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one in shown:
            one.enable_progress_bar()


def _version() -> str:
    import diffusers

    return str(diffusers.__version__)


def _readme(model: FashionModel, head: DiffusionModule) -> str:
    """What the pipeline reads, for whoever has the folder alone."""
    (height, width), (tall, wide) = head.size, head.edit_size
    width = conditioning_of(head).config["query_width"]
    queries = f"(B, {int(head.num_queries)}, {width})"
    learned = ", ".join(sorted(model.learned)) if model.learned else "not known"
    return f"""# A UniFashion diffusion head for diffusers
Written by unifashion-pl {__version__}; learned: {learned}. Its licence is that of the weights that it was trained from.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("this folder", trust_remote_code=True)
    pipe("red dress", generator=torch.Generator().manual_seed(0)).images[0]
    pipe(person=person, mask=mask, garment=photo, queries=queries).images[0]

`trust_remote_code` runs `pipeline.py`, `conditioning/{CONDITIONING}.py` and, where there is a garment branch, `garment_branch/{GARMENT}.py`:
classes that diffusers has not. They need torch, diffusers and transformers, and not unifashion-pl.

Pictures are {width} x {height} from prompts, persons {wide} x {tall} (width x height); mask: white = repaint. `queries` {queries}
are what the model's Q-Former makes of garment, sketch or reference picture with the text. The Q-Former is not in this folder; with unifashion-pl:

    features = model.backbone.image_features(pixels)                          # (B, 3, S, S) uint8
    queries, _ = model.backbone.fused_pass(features, model.backbone.tokenize(texts))  # texts: "" in try-on

Without queries the pipeline paints from text, and the garment from what the garment branch sees. `prompt_embeds` replace the whole context.
The pipeline paints the whole picture; pasting it back into the person's own photo is left to you.
"""
