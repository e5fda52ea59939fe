"""Models from plain configs: from YAML files that a user names, and from what lies beside weights, which anybody may have written."""

from __future__ import annotations

import json
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from unifashion_pl import learned
from unifashion_pl.arguments import choice
from unifashion_pl.configs import read_config
from unifashion_pl.configs.layers import drop_replaced
from unifashion_pl.freezing import OWN_HEADS, left_out
from unifashion_pl.parts.fit import check_fit, load_exactly
from unifashion_pl.parts.rebuild import Blueprints, SourceMissing, rebuilding
from unifashion_pl.parts.trust import UntrustedCode, library_only

M = TypeVar("M", bound=nn.Module)
#: Layers and parameters that a model may have for each tensor of its file, and beyond: frozen parts that the file leaves out.
EACH, SLACK = 6, 8_000
#: Of ``optim``, what names classes of others.
MAKERS = ("optimizer", "scheduler")
#: Bytes of buffers that are in no file.
BUFFERS = 1 << 30


@dataclass(frozen=True)
class Saved:
    """A saved model before it is built.

    Attributes:
        where: its file or folder, for messages.
        section: how it is built, the plain config of a UniFashionModule.
        parts: blueprints, see :mod:`unifashion_pl.parts.rebuild`; None = saved by an older version.
        state: its tensors.
        learned: what they have learned, see :mod:`unifashion_pl.learned`.
        training_seed: of their last training; None = not known.
    """

    where: str
    section: dict[str, Any]
    parts: Path | Blueprints | None
    state: dict[str, Tensor]
    learned: frozenset[str] | None = None
    training_seed: int | None = None

    def only(self, heads: Collection[str]) -> Saved:
        """Without the other heads: they are neither built nor read.

        Raises:
            ValueError: a head that is none.
        """
        own = self.section.get("further") or {}
        for head in heads:
            choice(head, "head", (*OWN_HEADS, *own))
        others = {*OWN_HEADS, *own} - {*heads}
        state = {name: tensor for name, tensor in self.state.items() if name.partition("_head.")[0] not in others}
        further = {name: section for name, section in own.items() if name in heads} or None
        section = {**self.section, **dict.fromkeys(others & {*OWN_HEADS})}
        if own:
            weights = {name: weight for name, weight in (section.get("loss_weights") or {}).items() if name not in others}
            section |= {"further": further, "loss_weights": weights}
        return replace(self, section=section, state=state)


def build(cls: type[M], section: Mapping[str, Any]) -> M:
    """Instantiate from plain config so that the config is stored in ``hparams``, as under the command line."""
    return builder(cls, section)()


def builder(cls: type[M], section: Mapping[str, Any]) -> Callable[[], M]:
    """:func:`build` in two steps, of which the second can be repeated: everything is checked, then made."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "module", fail_untyped=False)
    parsed = parser.parse_object({"module": dict(section)})

    def make() -> M:
        with _given_hyperparameters_context(dict(section), instantiator="lightning.pytorch.cli.instantiate_module"):
            return parser.instantiate(parsed).module

    return make


def build_saved(cls: type[M], saved: Saved, trusted: bool) -> M:
    """The model of a saved description, with its tensors.

    It is first built without memory and compared with the tensors of the file, so that no size that is only claimed is allocated. Then it
    is built anew: constants that are in no file have to be computed, and parts that the file leaves out to be read.

    Args:
        trusted: other classes than this library's may be built.

    Raises:
        UntrustedCode: it names other classes, and is not trusted.
        ValueError: it cannot be built, or its tensors are others.
        FileNotFoundError: a published part that it leaves out is not there.
    """
    with buildable(saved.where, trusted):
        make = builder(cls, at_rest(saved.section, trusted))
    with buildable(saved.where, trusted), torch.device("meta"), _bounded(saved), rebuilding(saved.where, saved.parts):
        shapes = make()
    kept_out: Any = shapes.leave_out
    check_fit(shapes, saved.state, saved.where, left_out(shapes))
    _check_buffers(shapes, saved.where)
    with buildable(saved.where, trusted), rebuilding(saved.where, saved.parts, kept_out):
        model = make()
    load_exactly(model, saved.state, saved.where, left_out(model))
    learned.give(model, saved.learned)
    vars(model)["training_seed"] = saved.training_seed
    return model


def at_rest(section: Mapping[str, Any], trusted: bool) -> dict[str, Any]:
    """A model's config without what a training alone needs: where it started from and, unless trusted, an optimiser's and a schedule's class."""
    optim = section.get("optim")
    if not trusted and isinstance(optim, dict):
        inner = optim.get("init_args", optim)
        kept = {k: v for k, v in inner.items() if k not in MAKERS} if isinstance(inner, dict) else inner
        optim = {**optim, "init_args": kept} if "init_args" in optim else kept
    return {**section, "init_from": None, **({"optim": optim} if "optim" in section else {})}


def _check_buffers(model: nn.Module, where: str) -> None:
    """Refuse a model with huge buffers that are in no file."""
    own = model.state_dict()
    beside = sum(buffer.nbytes for name, buffer in model.named_buffers() if name not in own)
    if beside > BUFFERS:
        raise ValueError(
            f"{where} describes a model with {beside:,} bytes of constants beside its tensors, at most {BUFFERS:,} are taken"
        )


@contextmanager
def buildable(where: str, trusted: bool) -> Iterator[None]:
    """Inside the block a model is built from ``where``'s description: any error of any library is one of the description.

    Raises:
        UntrustedCode, SourceMissing: as they are.
        ValueError: for all others.
    """
    try:
        with library_only(where, trusted), warnings.catch_warnings():
            yield
    except UntrustedCode:
        raise
    except Exception as error:
        first: BaseException = error  # jsonargparse wraps them, and lists every type that a value might have had
        while first.__cause__ is not None and not isinstance(first, SourceMissing):
            first = first.__cause__
        if isinstance(first, SourceMissing):
            raise SourceMissing(str(first)) from error
        text = " ".join(str(first).split())
        raise ValueError(
            f"{where} describes a model that cannot be built: {text[:400]} ({type(first).__name__}). Is it damaged, or of another version?"
        ) from error


@contextmanager
def _bounded(saved: Saved) -> Iterator[None]:
    """Refuse a description with far more parts than the file has tensors, while they are being made."""
    limit, here = EACH * len(saved.state) + SLACK, threading.get_ident()
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += threading.get_ident() == here
        if made > limit:
            raise ValueError(f"it asks for more than {limit:,} layers, and the file has {len(saved.state):,} tensors")

    handles = [hook(count) for hook in (register_module_module_registration_hook, register_module_parameter_registration_hook)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handle in handles:
            handle.remove()


def from_config(cls: type[M], config: str | Path | Iterable[str | Path], overrides: dict[str, Any] | None = None) -> M:
    """See :meth:`UniFashionModule.from_config`. Weights named by ``init_from`` are loaded as in training."""
    configs = [config] if isinstance(config, str | Path) else list(config)
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(cls, "model", fail_untyped=False)
    # as the command line would: what lies over what is decided in one place, and parsing in steps loses the classes of dataclasses
    args = [f"--config={json.dumps({'model': section})}" for section in _sections(configs)]
    args += [
        f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (overrides or {}).items()
    ]
    try:
        parsed = parser.parse_args(drop_replaced(args))
    except ArgumentError as error:
        raise ValueError(f"{' + '.join(map(str, configs))}: {error}") from error
    return build(cls, parsed.as_dict()["model"])


def _sections(configs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Their ``model:``; configs of the trainer or the data alone have none."""
    sections = [read_config(name).get("model", {}) for name in configs]
    for name, section in zip(configs, sections):
        if not isinstance(section, dict):
            raise ValueError(f"{name} has no `model:` section with settings: found {section!r}")
    if not any(sections):
        raise ValueError(
            f"{' + '.join(map(str, configs))} has no `model:` section with settings: name a phase's config too, e.g. phase2.yaml"
        )
    return sections
