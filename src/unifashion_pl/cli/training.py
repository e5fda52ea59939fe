"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI as this library uses it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from unifashion_pl.cli import folders
from unifashion_pl.configs import merged, resolve_config
from unifashion_pl.configs.layers import drop_replaced
from unifashion_pl.freezing import OWN_HEADS
from unifashion_pl.module import UniFashionModule
from unifashion_pl.parts.rebuild import rebuilding
from unifashion_pl.parts.trust import SWITCH, local
from unifashion_pl.preemption import PATTERN
from unifashion_pl.weights.building import Saved, at_rest, buildable
from unifashion_pl.weights.checkpoint import read_checkpoint

#: Parts of ``model`` that are no part of what was trained.
OF_THE_COMMAND = ("evaluator", "painter")


class UniFashionCLI(LightningCLI):
    """LightningCLI whose evaluations log beside the training run, not over its learning curves.

    A checkpoint given by ``--ckpt_path`` says what the model is, but for heads that a config sets to null and for options of the command
    line, which both hold; how it is evaluated and painted with is the command's to say.

    Args:
        model_class, datamodule_class, run, kwargs: as Lightning's; a subclass of :class:`~unifashion_pl.UniFashionModule`, or a head alone.
        args: as of the command, which stands first unless ``run=False``; default ``sys.argv[1:]``.
    """

    def __init__(
        self,
        model_class: Any = UniFashionModule,
        datamodule_class: Any = None,
        *,
        args: Sequence[str] | None = None,
        run: bool = True,
        **kwargs: Any,
    ) -> None:
        self._typed = list(sys.argv[1:] if args is None else args)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _quiet()
        usual = {"seed_everything_default": 0, "auto_configure_optimizers": False, "save_config_kwargs": {"overwrite": True}}
        resolved = drop_replaced(resolve_configs(self._typed) if run else resolve_configs(["", *self._typed])[1:])
        super().__init__(model_class, datamodule_class, args=resolved, run=run, **{**usual, **kwargs})

    #: Of ``--ckpt_path``.
    _saved: Saved | None = None

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Options are named in full: what is an abbreviation today may be another option tomorrow."""
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            f"--{SWITCH}",
            action="store_true",
            help="let --ckpt_path name classes that are not of this library; they may run any program",
        )

        parser.add_argument(
            "--resume",
            choices=["auto"],
            help="fit: go on from the newest checkpoint of this run that can be read, and begin where there is none; what a job does by "
            "itself that SLURM runs again",
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self._args: list[str] = list(args)
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """The model's section from the checkpoint, which may have been written by anybody, over the command's own."""
        chosen = self.config.get(self.config.get("subcommand") or "")
        if chosen is not None:
            self._find_newest(chosen)
        if chosen is None or chosen.get("ckpt_path") is None:
            return
        local(chosen.ckpt_path, chosen.get(SWITCH))
        chosen.ckpt_path = found = checkpoint(str(chosen.ckpt_path), self.config.subcommand, chosen.trainer)
        local(found, chosen.get(SWITCH))
        if not Path(found).is_file():
            return
        saved = read_checkpoint(found, described=False)
        if not saved.section:
            return  # of a model that was assembled by hand
        self._saved = saved
        section = {name: value for name, value in saved.section.items() if name not in OF_THE_COMMAND}
        section = at_rest(section, chosen.get(SWITCH))
        with buildable(found, chosen.get(SWITCH)):  # by itself, so that the command's own classes are not restricted
            # what was checked is what is laid: of the text of a class's name, the command's own parser would read a file of that name
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(self._model_class, "model", fail_untyped=False)
            checked = parser.parse_object({"model": section}, defaults=False)
            section = json.loads(parser.dump(checked, format="json", skip_none=False))["model"]
        # over the configs and below the options of the command line
        left = nulls(self._args) & {*OWN_HEADS}
        model = json.dumps({"model": {name: value for name, value in section.items() if name not in left}})
        self.config = self.parser.parse_args(with_config(self._args, model))
        self.config[self.config.subcommand].model.init_from = None  # the checkpoint has all weights
        self.config[self.config.subcommand].ckpt_path = found

    def _find_newest(self, chosen: Any) -> None:
        """What ``--resume auto`` goes on from becomes ``--ckpt_path``."""
        if self.config.subcommand != "fit":
            if chosen.get("resume"):
                raise ValueError(f"--resume is of fit; {self.config.subcommand} takes --ckpt_path")
            return
        if folders.asked_to_resume(chosen.get("resume"), chosen.get("ckpt_path")):
            found, said = folders.newest(chosen.trainer)
            chosen.ckpt_path = None if found is None else str(found)
            self._say(said)

    @staticmethod
    def _say(sentences: Iterable[str]) -> None:
        for sentence in sentences if folders.first_process() else ():
            print(sentence, flush=True)

    def instantiate_classes(self) -> None:
        """A model whose tensors are in the checkpoint needs no files that it was started from."""
        if self._saved is None:
            super().instantiate_classes()
            return
        published = self.config[self.config.subcommand].model.get("leave_out") or ()
        with rebuilding(self._saved.where, self._saved.parts, published):
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        if self.subcommand is None:
            return
        logger = self.config[self.subcommand].trainer.logger
        if self.subcommand != "fit" and getattr(getattr(logger, "init_args", None), "version", None) == "":
            logger.init_args.version = self.subcommand
        chosen = self.config[self.subcommand]
        if self.subcommand == "fit":
            _not_from_itself(chosen)
            if folders.first_process() and not chosen.trainer.fast_dev_run:
                self._say(folders.set_aside(chosen.trainer, chosen.model.get("init_from"), chosen.ckpt_path))
        if self.subcommand == "test":
            self._say(filter(None, [folders.older_results(folders.folders(chosen.trainer)[0])]))

    def _run_subcommand(self, subcommand: str) -> None:
        """Lightning's; a training that Ctrl-C or SIGTERM ends says how it goes on."""
        try:
            super()._run_subcommand(subcommand)
        except (KeyboardInterrupt, SystemExit) as error:
            if subcommand == "fit" and stopped(error) and self.trainer.is_global_zero:
                print(going_on(self._typed, getattr(self.trainer, "callbacks", ())), file=sys.stderr)
            raise


def train(args: list[str]) -> None:
    """Run a trainer's command.

    Args:
        args: the command and its options; bare names of configs are looked up.
    """
    UniFashionCLI(args=args)


def stopped(error: BaseException) -> bool:
    """Whether it is the end of a process by Ctrl-C or SIGTERM, as Lightning hands it on."""
    return isinstance(error.__context__ or error, KeyboardInterrupt) or type(error).__name__ == "SIGTERMException"


def going_on(typed: Sequence[str], callbacks: Sequence[Any]) -> str:
    """How a training that was stopped goes on: its command, from the newest checkpoint that it has written.

    Args:
        typed: the command and its options.
        callbacks: of its trainer, among them those that write checkpoints.
    """
    savers = [callback for callback in callbacks if not getattr(callback, "save_weights_only", False)]
    names = ("last_model_path", "best_model_path", "_last_checkpoint_saved", "ckpt_path")  # the last of OnExceptionCheckpoint
    written = {str(getattr(saver, name, None) or "") for saver in savers for name in names}
    found = [Path(path) for path in written if path and Path(path).exists()]
    options, given = [], ""
    rest = iter(typed)
    for word in rest:
        if word in ("--ckpt_path", "--ckpt-path"):
            given = next(rest, "")
        elif word.startswith(("--ckpt_path=", "--ckpt-path=")):
            given = word.partition("=")[2]
        else:
            options.append(word)
    place = str(max(found, key=lambda path: path.stat().st_mtime)) if found else given
    resumes = any(word == "--resume" or word.startswith("--resume=") for word in options)
    if not place and not resumes:
        return (
            "no checkpoint was written yet, so the same command begins anew; ModelCheckpoint(every_n_train_steps=...) would write one "
            "within an epoch"
        )
    place = os.path.relpath(place) if Path(place).is_relative_to(Path.cwd()) else place
    program = Path(sys.argv[0]).name
    program = {"__main__.py": "unifashion"}.get(program, f"python {sys.argv[0]}" if program.endswith(".py") else program)
    return f"go on with: {program} {shlex.join([*options, *(() if resumes else ('--ckpt_path', place))])}"


def resolve_configs(args: Sequence[str]) -> list[str]:
    """The command, every ``--config`` (or ``-c``) with its path, then all other options.

    Options come last, so that what is said on the command line holds whether it stands before or behind a config.
    """
    configs: list[str] = []
    others: list[str] = []
    pending = False
    for arg in args:
        if pending or arg.startswith("--config="):
            configs += ["--config", resolve_config(arg.removeprefix("--config="))]
            pending = False
        elif arg in ("--config", "-c"):
            pending = True
        else:
            others.append(arg)
    return [*others[:1], *configs, *others[1:], *(["--config"] if pending else [])]


def nulls(args: Sequence[str]) -> set[str]:
    """Names of the model's section that the last config that names them sets to null.

    Args:
        args: as :func:`resolve_configs` returns them.
    """
    model = merged(name for option, name in pairwise(args) if option == "--config").get("model")
    return {name for name, value in model.items() if value is None} if isinstance(model, dict) else set()


def with_config(args: Sequence[str], config: str) -> list[str]:
    """Arguments of :func:`resolve_configs` with one more config, behind all that there are and before the options."""
    end = next((i for i in range(1, len(args), 2) if args[i] != "--config"), len(args))
    return [*args[:end], "--config", config, *args[end:]]


def checkpoint(asked: str, command: str, trainer: Any) -> str:
    """The file or folder that ``--ckpt_path`` means.

    Args:
        asked: a path, ``last``, ``best``, ``hpc``, or a registry that Lightning reads.
        command: ``fit`` leaves ``last`` to Lightning, which starts anew where there is none, so that a job can be put into a queue again.
        trainer: its config.

    Raises:
        FileNotFoundError: there is no such checkpoint: nothing else is measured in its place.
    """
    registry = asked.startswith("registry") and find_spec("litmodels") is not None
    if Path(asked).exists() or registry or (command == "fit" and asked in ("last", "hpc")):
        return asked
    places = folders.saved_in(trainer)
    if asked == "hpc":
        places, pattern = [Path(str(trainer.default_root_dir or "."))], PATTERN
    elif asked == "last":
        pattern = "last*.ckpt"
    elif asked == "best":
        raise FileNotFoundError(
            f"--ckpt_path best: which checkpoint was the best is known to the process that trained alone; name its file{_there(places)}"
        )
    else:
        raise FileNotFoundError(
            f"--ckpt_path {asked}: there is no such file{_there(places) or ' (train first, or look for the path)'}"
        )
    found = [path for place in places for path in place.glob(pattern)]
    if not found:
        where = ", ".join(map(str, places)) or "no folder, because no ModelCheckpoint names a dirpath"
        raise FileNotFoundError(
            f"--ckpt_path {asked}: no {pattern} was found (looked in {where}); train first, or name the checkpoint's file"
        )
    return str(max(found, key=lambda path: path.stat().st_mtime))


def _there(places: Sequence[Path]) -> str:
    """The checkpoints that there are, as the end of a sentence."""
    names = sorted(str(path) for place in places for path in place.glob("*.ckpt"))
    return f"; there are {', '.join(names[:5])}" if names else ""


def _not_from_itself(config: Any) -> None:
    """Of several places to start from, leave out the one that this run writes: a second run would go on from the first."""
    places = config.model.get("init_from")
    own = {path.resolve().parent for path in folders.saved_in(config.trainer)}
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
        ".*__array__ implementation doesn't accept a copy keyword.*",
        ".*was deprecated in v4.*",
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.getMessage())
