"""``serve``: an index behind HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from unifashion_pl.commands.options import Model, SearchModel
from unifashion_pl.serving.limits import Limits

if TYPE_CHECKING:
    from unifashion_pl.gallery.queries import QueryEncoder
    from unifashion_pl.interface import FashionModel


@dataclass(kw_only=True)
class ServedModel(Model):
    """A model that searches and captions: what paints is not built."""

    heads = ("retrieval", "caption")
    model: Annotated[str | None, "tiny (default), a folder, a .ckpt, a hub id, or an export (ONNX), which needs no torch"] = (
        None
    )


def serve(
    index: Annotated[Path, "its folder"],
    *,
    host: Annotated[str, "where to listen; others than this machine's own need a token"] = "127.0.0.1",
    port: Annotated[int, "0 = a free one, which is printed"] = 8000,
    token: Annotated[
        str | None,
        "that every request has to bring (Authorization: Bearer TOKEN); better said by UNIFASHION_TOKEN, which others do not see",
    ] = None,
    no_captions: Annotated[bool, "do not build the model's caption head"] = False,
    limits: Limits,
    model: ServedModel,
) -> None:
    """Answer searches in an index over HTTP, with captions and vectors."""
    try:
        from unifashion_pl.serving import server
        from unifashion_pl.serving.service import Service
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unifashion_pl"):
            raise
        raise ModuleNotFoundError(
            f"serve needs {error.name}, which is not installed: pip install 'unifashion-pl[serve]'"
        ) from error
    from unifashion_pl.gallery import store
    from unifashion_pl.inference.exported import is_export

    wanted = server.token_of(token, host)
    store.require(index)
    used = SearchModel(**vars(model)) if no_captions or is_export(model.model) else model
    hidden = {} if model.model is None else {model.model: "the model"}
    server.run(Service(index, lambda: opened(used), limits, hidden), host, port, wanted)


def opened(model: Model) -> tuple[QueryEncoder, FashionModel | None]:
    """What answers searches, and what captions; an export answers searches by itself."""
    from unifashion_pl.gallery.queries import QueryEncoder
    from unifashion_pl.inference.exported import ExportedModel, is_export

    if model.model is not None and is_export(model.model):
        return QueryEncoder(model.load, exported=ExportedModel(model.model)), None
    whole = model.load()
    return QueryEncoder(lambda: whole), whole if whole.caption_head is not None else None
