"""What functions ask of a model: the model of this library has it, and any other that has it will do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import pytest
import torch
from small import images, small_backbone
from torch import nn

from unifashion_pl import UniFashionModule, inference
from unifashion_pl.gallery import Gallery
from unifashion_pl.interface import FashionModel, SavedModel
from unifashion_pl.tasks import RetrievalModule


class Plain:
    """No module of torch nor of Lightning: what the Protocol names, and nothing else."""

    caption_head = diffusion_head = learned = None
    toy = False

    def __init__(self, model: UniFashionModule) -> None:
        self.backbone, self.retrieval_head = model.backbone, model.retrieval_head

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def modules(self) -> Iterator[nn.Module]:
        yield from self.backbone.modules()
        assert self.retrieval_head is not None
        yield from self.retrieval_head.modules()

    def state_dict(self) -> Mapping[str, Any]:
        assert self.retrieval_head is not None
        parts = {"backbone": self.backbone, "retrieval_head": self.retrieval_head}
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


@pytest.fixture
def model() -> UniFashionModule:
    torch.manual_seed(0)
    return UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).train()


def asked(protocol: type) -> set[str]:
    """Names of a Protocol, with those of the protocols that it extends."""
    members = {n for base in protocol.__mro__ for n in vars(base) if base.__module__ == protocol.__module__ and n[0] != "_"}
    return members | set(get_type_hints(protocol))


@pytest.mark.parametrize("protocol", [FashionModel, SavedModel])
def test_the_model_has_what_is_asked_for(model: UniFashionModule, protocol: type) -> None:
    wanted = asked(protocol)
    assert {"backbone", "retrieval_head", "learned", "device", "modules", "state_dict"} <= wanted
    assert ("hparams" in wanted) == (protocol is SavedModel)
    assert [name for name in sorted(wanted) if not hasattr(model, name)] == []
    for name, method in inspect.getmembers(FashionModel, inspect.isfunction):
        if name[0] != "_":  # as it is called by the Protocol, so the model can be called
            inspect.signature(getattr(model, name)).bind(*list(inspect.signature(method).parameters)[1:])


def test_a_model_of_another_class_is_searched_as_this_one(model: UniFashionModule) -> None:
    plain = Plain(model)
    assert asked(FashionModel) <= {*dir(plain)}
    pictures, texts = images(5), ["a red dress", "blue"]
    for found, expected in (
        (inference.encode_text(plain, texts), model.encode_text(texts)),
        (inference.encode_image(plain, pictures), model.encode_image(pictures)),
        (inference.compose(plain, pictures[:2], texts), model.compose(pictures[:2], texts)),
    ):
        assert torch.equal(found, expected)
    assert model.backbone.training
    found, expected = (Gallery(one).add(pictures, ids=list("abcde")).search("blue", pictures[3], k=5) for one in (plain, model))
    assert found == expected
    assert {hit.id for hit in found} == set("abcde")
    with pytest.raises(RuntimeError, match=r"no caption head, so it cannot make captions \(it has: retrieval\)"):
        inference.caption(plain, pictures)
