"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from unifashion_pl.cli.configs import config_chain, resolve_config, resolve_configs
from unifashion_pl.cli.main import main

__all__ = ["config_chain", "main", "resolve_config", "resolve_configs"]
