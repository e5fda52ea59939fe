"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI as this library uses it."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI

from unifashion_pl.cli.configs import resolve_configs
from unifashion_pl.module import UniFashionModule
from unifashion_pl.weights.building import Saved, buildable
from unifashion_pl.weights.checkpoint import local, read_checkpoint
from unifashion_pl.weights.rebuild import rebuilding
from unifashion_pl.weights.trust import SWITCH

#: Parts of ``model`` that are no part of what was trained.
OF_THE_COMMAND = ("evaluator", "painter")


class UniFashionCLI(LightningCLI):
    """LightningCLI whose evaluations log beside the training run, not over its learning curves.

    A checkpoint given by ``--ckpt_path`` says what the model is; how it is evaluated and painted with is the command's to say.
    """

    #: Of ``--ckpt_path``.
    _saved: Saved | None = None

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            f"--{SWITCH}",
            action="store_true",
            help="let --ckpt_path name classes that are not of this library; they may run any program",
        )

    def _parse_ckpt_path(self) -> None:
        """The model's section from the checkpoint, which may have been written by anybody, over the command's own."""
        chosen = self.config.get(self.config.get("subcommand"))
        path = chosen.get("ckpt_path") if chosen is not None else None
        if not path or not local(path).is_file():
            return
        saved = read_checkpoint(path, described=False)
        if not saved.section:
            return  # of a model that was assembled by hand
        self._saved = saved
        section = {**saved.section, "init_from": None}
        with buildable(str(path), chosen.get(SWITCH)):  # by itself, so that the command's own classes are not restricted
            self._model_parser().parse_object({"model": section})
        asked = {name: chosen.model.get(name) for name in OF_THE_COMMAND}
        self.config = self.parser.parse_object({self.config.subcommand: {"model": section}}, self.config)
        for name, value in asked.items():
            if value is not None:
                self.config[self.config.subcommand].model[name] = value

    @staticmethod
    def _model_parser() -> ArgumentParser:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(UniFashionModule, "model", fail_untyped=False)
        return parser

    def instantiate_classes(self) -> None:
        """A model whose tensors are in the checkpoint needs no files that it was started from."""
        if self._saved is None:
            super().instantiate_classes()
            return
        published = self.config[self.config.subcommand].model.get("leave_out") or ()
        with rebuilding(self._saved.where, self._saved.parts, published):
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        logger = self.config[self.subcommand].trainer.logger
        if self.subcommand != "fit" and getattr(getattr(logger, "init_args", None), "version", None) == "":
            logger.init_args.version = self.subcommand
        if self.subcommand == "fit":
            _not_from_itself(self.config.fit)


def train(args: list[str]) -> None:
    """Run a trainer's command.

    Args:
        args: the command and its options; bare names of configs are looked up.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet()
    UniFashionCLI(
        UniFashionModule,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        args=resolve_configs(args),
    )


def _not_from_itself(config: Any) -> None:
    """Of several places to start from, leave out the one that this run writes: a second run would go on from the first."""
    places = config.model.init_from
    dirpaths = [getattr(getattr(c, "init_args", None), "dirpath", None) for c in config.trainer.callbacks or ()]
    own = {Path(path).resolve().parent for path in dirpaths if path}
    if isinstance(places, list) and (itself := [p for p in places if isinstance(p, str) and Path(p).resolve() in own]):
        print(f"init_from: {', '.join(itself)} is what this run writes, so it does not start from it")
        config.model.init_from = [place for place in places if place not in itself] or None


def _quiet() -> None:
    """Hide what no user of this program can act on: deprecations inside libraries, intended settings, advertisements."""
    for message in (
        ".*LightningCLI's args parameter is intended.*",  # main() hands its own arguments over
        ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts are
        ".*does not have many workers.*",  # the toy decodes in 30 ms a batch
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*is_gradient_checkpointing.*",
        ".*__array__ implementation doesn't accept a copy keyword.*",
        ".*was deprecated in v4.*",
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.getMessage())
