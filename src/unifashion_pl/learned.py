"""What a model has learned, and what is said when it is asked for more.

A task counts as learned once an optimiser step was taken for it. The record travels with the weights (checkpoints, ``config.json``) and
grows over the stages of a training. None instead of a set means that nobody knows: the model was put together by hand, or its weights
came from a file that says nothing. Nothing is refused then, and nothing claimed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from unifashion_pl.data.samples import EditBatch, PairBatch, TrainBatch, TripletBatch
from unifashion_pl.freezing import POLICIES

if TYPE_CHECKING:
    from unifashion_pl.interface import FashionModel

Task = Literal["retrieval", "composed", "caption", "generation", "composed generation", "try-on", "design"]
TASKS: tuple[Task, ...] = get_args(Task)
Learned = frozenset[str] | None

#: In a Lightning checkpoint; in ``config.json`` it is ``learned``.
KEY = "unifashion_learned"
#: Name in a ``config.json``.
TRAINING_SEED = "training_seed"
#: Task -> (the head that does it, what it is, how a model comes to know it, what can be done without).
MEANINGS: dict[Task, tuple[str, str, str, str]] = {
    "retrieval": ("retrieval", "search by text", "train it on image-text pairs (phase 1)", "search by an image alone"),
    "composed": (
        "retrieval",
        "search by an image and a text together",
        "train phase 2 (`unifashion fit --config phase2.yaml --model.init_from THIS_MODEL` with your data; after small.yaml: small-composed.yaml)",
        "search by the text or by the image alone",
    ),
    "caption": ("caption", "caption images", "train the caption head on image-text pairs (phase 1)", ""),
    "generation": ("diffusion", "paint from a text", "train the diffusion head on image-text pairs (phase 1)", ""),
    "composed generation": (
        "diffusion",
        "paint from an image and a text together",
        "train phase 2 with a diffusion head (`unifashion fit --config phase2.yaml --model.init_from THIS_MODEL` with your data)",
        "paint from the text alone",
    ),
    "try-on": ("diffusion", "paint persons in a garment of a photo", "train try-on (`unifashion fit --config tryon.yaml`)", ""),
    "design": ("diffusion", "paint persons in what a text says", "train design (`unifashion fit --config design.yaml`)", ""),
}

_PHASE1: dict[str, Task] = {"cross": "retrieval", "itg": "caption", "q2i": "generation"}
#: What the ITG of triplets teaches, captions of composed queries, is nothing that a model is asked for.
_PHASE2: dict[str, Task] = {"cross": "composed", "q2i": "composed generation"}
_PERSONS: dict[str, Task] = {"tryon": "try-on", "design": "design", "text": "design"}

_PAIRS: tuple[Task, ...] = ("retrieval", "caption", "generation")
_TRIPLETS: tuple[Task, ...] = ("composed", "composed generation")
#: For checkpoints that were written before models kept a record: what a policy trains, and what its stage is trained upon.
OLDER: dict[str, tuple[Task, ...]] = {
    "phase1_retrieval": ("retrieval",),
    "phase1_llm": ("retrieval", "caption"),
    "phase1_diffusion": ("retrieval", "generation"),
    "phase1_generative": _PAIRS,
    "phase1_adapters": _PAIRS,
    "phase1_joint": _PAIRS,
    "lora": _PAIRS,
    "phase2_composed": (*_PAIRS, *_TRIPLETS),
    "phase2_adapters_diffusion": (*_PAIRS, *_TRIPLETS),
    "released_cls": ("retrieval", "composed"),
    "released_rerank": ("retrieval", "composed"),
}
#: Kinds of imported checkpoints -> what their authors trained them for; parts that a checkpoint lacks take their tasks with them.
IMPORTED: dict[str, tuple[Task, ...]] = {
    "blip2-lavis": ("retrieval",),
    "blip2-hf": ("retrieval",),
    "unifashion": (*_PAIRS, *_TRIPLETS),
    "sprc": ("retrieval",),
}
#: Part of a head without which it cannot have learned anything.
_ESSENTIAL = {
    "retrieval": "retrieval_head.vision_proj",
    "caption": "caption_head.adapter",
    "diffusion": "diffusion_head.adapter",
}


def taught(batch: TrainBatch, families: Iterable[str], edits: Mapping[str, float] | None = None) -> set[Task]:
    """Tasks that a step on a batch teaches.

    Args:
        batch: as the heads get it.
        families: of the losses that were computed.
        edits: shares of the tasks that rows of persons are drawn from, see :class:`~unifashion_pl.tasks.EditSettings`.
    """
    found: set[Task] = set()
    for family in families:
        if isinstance(batch, EditBatch):
            found |= {_PERSONS[name] for name, share in (edits or {}).items() if share > 0}
        elif isinstance(batch, TripletBatch) and family in _PHASE2:
            found.add(_PHASE2[family])
        elif isinstance(batch, PairBatch) and (family != "itg" or any(c.strip() for c in batch.captions)):
            found.add(_PHASE1[family])
    return found


def of_heads(learned: Iterable[str], heads: Iterable[str]) -> frozenset[str]:
    """Those of the tasks that can be done with some heads (``retrieval``, ``caption``, ``diffusion``)."""
    present = set(heads)
    return frozenset(task for task, (head, *_) in MEANINGS.items() if task in set(learned) and head in present)


def of_policy(section: Mapping[str, Any], streams: Iterable[str] | None = None) -> Learned:
    """What a checkpoint without a record has learned, as far as its config and its streams tell.

    Args:
        section: the model's config.
        streams: names of the streams that it was trained on; None = not known.

    Returns:
        None where the policy is unknown, or trains persons: anything may have been learned before. Persons may have been learned in an
        earlier stage, and count as learned where the U-Net reads them, see :func:`give`.
    """
    policy = str(section.get("policy", "phase1_joint"))
    if policy not in OLDER:
        return None
    tasks = {*OLDER[policy], *_PERSONS.values()}
    if streams is not None:
        own = {_PHASE2[family] for family in POLICIES[policy].losses if family in _PHASE2}
        tasks = tasks | own if "triplets" in set(streams) else tasks - {*_TRIPLETS}
    return of_heads(tasks, (head for head in _ESSENTIAL if section.get(head) is not None))


def at_start(model: FashionModel) -> frozenset[str]:
    """What a model knows before any step: with a published encoder its space, and in it the sum of an image's and a text's vectors."""
    known = model.retrieval_head is not None and model.backbone.text_tower is not None
    return frozenset({"retrieval", "composed"}) if known else frozenset()


def of_import(kind: str, absent: Iterable[str]) -> frozenset[str]:
    """What an imported folder has learned.

    Args:
        kind: of :data:`unifashion_pl.weights.manifest.KINDS`.
        absent: parts that the folder does not hold.
    """
    lacking = set(absent)
    return of_heads(IMPORTED.get(kind, ()), (head for head, part in _ESSENTIAL.items() if part not in lacking))


def of_checkpoint(content: Mapping[str, Any], where: object = "a checkpoint") -> Learned:
    """What a Lightning checkpoint says that its weights have learned; older ones by their policy and their streams.

    Args:
        where: the file, for messages.
    """
    if KEY in content:
        return read(content[KEY], where)
    from unifashion_pl.resume import STATES

    section = content.get("hyper_parameters")
    return of_policy(section, content.get(STATES)) if isinstance(section, Mapping) and "backbone" in section else None


def seed_of(content: Mapping[str, Any]) -> int | None:
    """Seed of the training that a Lightning checkpoint, or a ``config.json``, says that its weights come from; None = not known."""
    callbacks = content.get("callbacks")
    kept = callbacks.get("StepSeeds") if isinstance(callbacks, Mapping) else content
    seed = kept.get("seed" if kept is not content else TRAINING_SEED) if isinstance(kept, Mapping) else None
    return seed if type(seed) is int else None


def of_config(content: Mapping[str, Any], where: object = "config.json") -> Learned:
    """What a ``config.json`` says that its weights have learned; older ones by their policy.

    Args:
        where: the file, for messages.
    """
    if "learned" in content:
        return read(content["learned"], where)
    section = content.get("model")
    return of_policy(section) if isinstance(section, Mapping) and "backbone" in section else None


def read(stored: Any, where: object = "a model") -> Learned:
    """A record as it was stored; names that this version does not know are passed over.

    Args:
        where: the file, for messages.

    Raises:
        ValueError: something else than a list, or None.
    """
    if stored is None:
        return None
    if not isinstance(stored, list):
        raise ValueError(
            f"{where}: the record of what it has learned is {str(stored)[:80]!r}: expected a list of tasks, or null"
        )
    return frozenset(task for task in TASKS if task in stored)


def give(model: Any, record: Learned) -> None:
    """Note what a model's weights have learned, as far as it has the heads for it."""
    from unifashion_pl.generation.denoiser import LATENT_CHANNELS

    present = [head for head in _ESSENTIAL if getattr(model, f"{head}_head", None) is not None]
    model.learned = None if record is None else of_heads(record, present)
    if record is not None and "diffusion" in present and model.diffusion_head.denoiser.in_channels == LATENT_CHANNELS:
        model.learned -= {*_PERSONS.values()}  # its U-Net reads no persons


def joined(records: Iterable[Learned]) -> Learned:
    """What several sources of one model have learned together; not known if one of them does not tell."""
    known = [*records]
    return None if None in known else frozenset[str]().union(*(record or () for record in known))


def stored(learned: Learned) -> list[str] | None:
    """A record as it is stored: plain data in a fixed order."""
    return None if learned is None else [task for task in TASKS if task in learned]


def said(learned: Learned) -> str:
    """A record for people.

    >>> said(frozenset({"composed", "retrieval"})), said(frozenset()), said(None)
    ('retrieval, composed', 'nothing', 'not known')
    """
    return "not known" if learned is None else ", ".join(stored(learned) or ()) or "nothing"


def lacks(model: FashionModel, task: Task) -> str:
    """A sentence about what a model has not learned, "" if it has, or if nobody knows."""
    known: Learned = getattr(model, "learned", None)  # other modules than ours keep no record
    if known is None or task in known:
        return ""
    _, what, cure, instead = MEANINGS[task]
    state = f"it was trained for {said(known)}" if known else "it was not trained at all"
    also = f", or {instead}" if instead and known else ""
    return f"this model has not learned to {what} ({state}), so its answer means nothing: {cure}{also}"


def require(model: FashionModel, task: Task) -> None:
    """Refuse what a model has not learned: its answer would look like one and mean nothing.

    A model that was built by hand, or whose weights tell nothing of their past, is never refused; one that was just built from a config
    knows nothing, which its maker expects: a warning says so. Who knows better sets ``model.learned``, e.g. to None.

    Raises:
        RuntimeError: it was trained for something else; with what that was, and what to do.
    """
    sentence = lacks(model, task)
    if sentence and model.learned:
        raise RuntimeError(f"{sentence}. To ask it all the same, set model.learned = None in Python")
    if sentence:
        warnings.warn(sentence, stacklevel=3)


def label(model: FashionModel, task: Task) -> str | None:
    """What to write beside numbers of a model that was not trained for them; None if it was, or if nobody knows."""
    if not lacks(model, task):
        return None
    return f"not trained for {task}" if model.learned else "random"


def say_if_random(model: Any) -> None:
    """A line before weights are measured or painted with that nothing was trained for."""
    trainer = model.trainer
    if model.learned is None or model.learned or trainer.state.fn in (None, "fit") or not trainer.is_global_zero:
        return
    print(
        f"RANDOM WEIGHTS: `{trainer.state.fn.value}` was given no trained weights, neither --ckpt_path nor init_from: its results say nothing about "
        "a model, and are labelled so",
        file=sys.stderr,
    )
