"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

EXTENDS = "# extends:"
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
#: Parts of ``model`` that are no part of what was trained.
OF_THE_COMMAND = ("evaluator", "painter")


def resolve_config(name: str) -> str:
    """A config's path: as given if it exists, else a file of that name among the shipped configs.

    Raises:
        SystemExit: neither exists, with the names that do.
    """
    if Path(name).exists() or name.lstrip().startswith("{"):
        return name
    shipped = files("unifashion_pl.configs")
    candidate = shipped / name
    if candidate.is_file():
        return str(candidate)
    known = [
        f"{prefix}{name}"
        for folder, prefix in ((shipped, ""), (shipped / "ablations", "ablations/"))
        for name in sorted(str(p.name) for p in folder.iterdir())
        if name.endswith(".yaml")
    ]
    raise SystemExit(f"no config {name!r} in {Path.cwd()} nor among the shipped ones: {', '.join(known)}")


def config_chain(name: str, above: tuple[Path, ...] = ()) -> list[str]:
    """A config's path behind those that it extends: a first line ``# extends: tiny.yaml`` names the config that it lies over.

    It is looked up beside the config, then as every name; a config of its own name is the shipped one, which it adapts.

    Args:
        above: configs that extend this one.

    Raises:
        SystemExit: a config that does not exist.
    """
    path = resolve_config(name)
    if not Path(path).is_file():
        return [path]
    with open(path, encoding="utf-8") as file:
        first = file.readline().strip()
    if not first.startswith(EXTENDS):
        return [path]
    base, chain = first.removeprefix(EXTENDS).strip(), (*above, Path(path).resolve())
    places = [Path(path).parent / base, Path(base), Path(str(files("unifashion_pl.configs"))) / base]
    there = next((place for place in places if place.is_file() and place.resolve() not in chain), None)
    if there is None and any(place.is_file() for place in places):
        raise SystemExit(f"configs {', '.join(p.name for p in chain)} extend each other")
    return [*config_chain(base if there is None else str(there), chain), path]


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Replace the value of every ``--config`` (or ``-c``) by its :func:`config_chain`."""
    out: list[str] = []
    for arg in args:
        if out and out[-1] in ("--config", "-c"):
            out.pop()
            names = config_chain(arg)
        elif arg.startswith("--config="):
            names = config_chain(arg.removeprefix("--config="))
        else:
            out.append(arg)
            continue
        for name in names:
            out += ["--config", name]
    return out


def _train(args: list[str]) -> None:
    import lightning.pytorch.cli as lightning_cli

    from unifashion_pl.module import UniFashionModule

    class UniFashionCLI(lightning_cli.LightningCLI):
        """LightningCLI whose evaluations log beside the training run, not over its learning curves.

        A checkpoint given by ``--ckpt_path`` says what the model is; how it is evaluated and painted with is the command's to say.
        """

        def _parse_ckpt_path(self) -> None:
            chosen = self.config.get(self.config.get("subcommand"))
            asked = {name: chosen.model.get(name) for name in OF_THE_COMMAND} if chosen is not None else {}
            super()._parse_ckpt_path()
            for name, value in asked.items():
                if value is not None:
                    self.config[self.config.subcommand].model[name] = value

        def before_instantiate_classes(self) -> None:
            logger = self.config[self.subcommand].trainer.logger
            if self.subcommand != "fit" and getattr(getattr(logger, "init_args", None), "version", None) == "":
                logger.init_args.version = self.subcommand
            if self.subcommand == "fit":
                _not_from_itself(self.config.fit)

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
        ".*Experiment logs directory .* exists and is not empty.*",  # a run folder is written anew
        ".*does not have many workers.*",  # the toy decodes in 30 ms a batch
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*is_gradient_checkpointing.*",
        ".*__array__ implementation doesn't accept a copy keyword.*",
        ".*was deprecated in v4.*",
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.getMessage())


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: without the program's name; default ``sys.argv[1:]``.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if argv and argv[0] in TRAINER_COMMANDS:
        _train(argv)
    else:
        from unifashion_pl.commands import run

        run(argv)


if __name__ == "__main__":
    main()
