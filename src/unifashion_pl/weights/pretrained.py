"""How a model comes from files and goes into them, as methods."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import Self

from unifashion_pl.weights.building import from_config
from unifashion_pl.weights.checkpoint import from_pretrained, loading
from unifashion_pl.weights.saving import push_to_hub, save_pretrained


class PretrainedMethods(L.LightningModule):
    """The functions of this room on ``self``, a :class:`unifashion_pl.UniFashionModule`."""

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, *, trust_remote_code: bool = False) -> Self:
        """A model in eval mode from ``tiny`` (shipped), a folder of :meth:`save_pretrained`, a Lightning ``.ckpt`` or a hub id.

        The files it was started from are not needed, except for parts that ``leave_out`` names.

        Args:
            revision: of a hub id.
            trust_remote_code: also import and call classes that are not of this library, if its config names some, as a model with parts
                of your own does. They may run any program with your rights: only for files of people whom you trust.

        Raises:
            FileNotFoundError: nothing of that name, with what was looked for.
            ValueError: a damaged file, or one whose config names other classes without ``trust_remote_code``.
        """
        return from_pretrained(cls, source, revision, trust_remote_code=trust_remote_code)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Self:
        """Lightning's, from a local file, with what :meth:`from_pretrained` promises of a ``.ckpt``.

        Args:
            args, kwargs: as Lightning takes them.
        """
        kwargs.setdefault("weights_only", True)
        with loading(checkpoint_path, trust_remote_code):
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    @classmethod
    def from_config(cls, config: str | Path | Iterable[str | Path], overrides: dict[str, Any] | None = None) -> Self:
        """The model section of one or more YAML files (a bare name is looked up here, then among the shipped ones).

        Args:
            overrides: dotted names inside the model section, e.g. ``{"policy": "phase1_retrieval"}``.
        """
        return from_config(cls, config, overrides)

    def save_pretrained(self: Any, folder: str | Path, dtype: torch.dtype | None = None, **card: Any) -> Path:
        """Write ``config.json``, ``model.safetensors`` (in ``dtype``, if given) and a model card; returns the folder.

        Args:
            card: ``results`` (``results.json`` or a run folder), ``data`` (what it learned from), ``licence``.
        """
        return save_pretrained(self, folder, dtype, **card)

    def push_to_hub(self: Any, repository: str, *, private: bool = False, **saving: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to ``owner/name``; needs a login of huggingface_hub. Returns the address.

        Args:
            saving: arguments of :meth:`save_pretrained`.
        """
        return push_to_hub(self, repository, private=private, **saving)
