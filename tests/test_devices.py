"""Every tensor follows the model to a GPU: whole steps and paintings on torch's fake CUDA tensors, which need none.

They carry shapes, types and devices, and refuse operations of two devices as a GPU does; what waits for a value cannot run on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small import images, pair_batch, small_backbone, triplet_batch, tryon_batch
from syncs import NoSyncs
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import TrainBatch
from unifashion_pl.generation import vae
from unifashion_pl.generation.samplers import NoisePredictor
from unifashion_pl.tasks import EditSettings, RetrievalModule, diffusion, editing
from unifashion_pl.tasks.editing import edit_batch

GPU = torch.device("cuda:0")


def moved(value: Any) -> Any:
    """A tensor, or the tensors of a batch, as fake ones on the GPU."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)
    changed = {f.name: moved(x) for f in dataclasses.fields(value) if isinstance(x := getattr(value, f.name), Tensor)}
    return dataclasses.replace(value, **changed)


def move(model: nn.Module) -> None:
    """As ``model.to(GPU)``: parameters and buffers alone, so that a tensor kept elsewhere stays where it is."""
    twins: dict[int, Any] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) not in twins:
                    twins[id(tensor)] = moved(tensor)
                    if isinstance(tensor, nn.Parameter):
                        twins[id(tensor)] = nn.Parameter(twins[id(tensor)], requires_grad=tensor.requires_grad)
                if tensor is not None:
                    own[name] = twins[id(tensor)]


@contextmanager
def mixed(precision: torch.dtype | None) -> Iterator[None]:
    """Autocast of the GPU, which ``torch.autocast`` would leave off where there is none."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", precision is not None)
    torch.set_autocast_dtype("cuda", precision or before[1])
    try:
        product = torch.zeros(2, 2, device=GPU) @ torch.zeros(2, 2, device=GPU)
        assert product.dtype == (precision or torch.float32)
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def model_of(config: str, **overrides: Any) -> UniFashionModule:
    """Without the autoencoder's cache, which reads pictures on the CPU."""
    return UniFashionModule.from_config(config, {"init_from": None, "diffusion.init_args.vae.init_args.cache": 0, **overrides})


def batch_for(model: UniFashionModule, kind: str) -> TrainBatch:
    assert model.diffusion_head is not None
    side, size = model.backbone.vision.image_size, model.diffusion_head.size
    pixels = images(3, size[0], seed=1)[..., : size[1]]
    if kind == "pairs":
        return dataclasses.replace(pair_batch(3, pixels=pixels), images=images(3, side))
    if kind == "triplets":
        seen = images(3, side)
        return dataclasses.replace(triplet_batch(3, pixels=pixels), references=seen, targets=seen)
    h, w = model.diffusion_head.edit_size
    shown, mask = images(3, h, seed=2)[..., :w], torch.zeros(3, 1, h, w, dtype=torch.bool)
    mask[..., h // 4 : h // 2, w // 4 : w // 2] = True
    return dataclasses.replace(
        tryon_batch(3), garments=images(3, side), pixels=shown, masks=mask, pose=shown, garment_pixels=shown,
        sketches=shown, worn=mask, shapes=mask, texts=["red top"] * 3,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def known_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn as Python values, which fake tensors have not: tasks."""
    monkeypatch.setattr(EditSettings, "draw", lambda _, rows: ["tryon", "design", "text"][:rows])


@pytest.fixture
def fake() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=False)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "kind"),
    [("phase1.yaml", "pairs"), ("phase2.yaml", "triplets"), ("tryon.yaml", "tryon"), ("tryon.yaml", "pairs")],
)
def test_losses_of_a_step(fake: FakeTensorMode, config: str, kind: str, precision: torch.dtype | None) -> None:
    model = model_of(config).train()
    batch = batch_for(model, kind)
    with fake:
        move(model)
        with mixed(precision):
            losses = model.compute_losses(moved(batch))
    expected = {"pairs": {"q2i"}, "triplets": {"cir_itm", "q2i", "itg"}, "tryon": {"q2i"}}[kind]
    assert expected <= losses.keys()
    assert all(loss.device == GPU and loss.shape == () and loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize(("config", "kind"), [("phase1.yaml", "pairs"), ("phase2.yaml", "triplets"), ("tryon.yaml", "tryon")])
def test_captions_and_diffusion_learn_without_waiting_for_the_device(fake: FakeTensorMode, config: str, kind: str) -> None:
    model = model_of(config).train()
    batch = batch_for(model, kind)
    with fake:
        move(model)
        assert model.diffusion_head is not None
        given = model.diffusion_head.prepare(moved(batch))
        encoding = model.backbone.encode(given)  # type: ignore[arg-type]
        heads = [head for head in (model.caption_head, model.diffusion_head) if head is not None]
        with NoSyncs():
            losses = {name: loss for head in heads for name, loss in head.losses(model.backbone, given, encoding).items()}
    assert losses.keys() >= {"q2i"} | ({"itg"} if kind != "tryon" else set())


@pytest.mark.parametrize(
    ("wait", "message"),
    [
        (lambda x: x.cpu(), "is waited for: cuda:0 -> cpu"),
        (lambda x: torch.zeros(2).to(x.device), "is waited for: cpu -> cuda:0"),
        (lambda x: x.copy_(torch.zeros(2)), "is waited for: cpu -> cuda:0"),
        (lambda x: x[[1, 0]], "is waited for: cpu -> cuda:0"),
        (lambda x: x[x > 0], "how many rows"),
        (lambda x: x.sum().item(), "asks the GPU"),
        (lambda x: x.nonzero(), "asks the GPU"),
        (lambda x: bool((x > 0).any()), "asks the GPU"),
        (lambda x: torch.equal(x, x + 1), "asks the GPU"),
        (lambda x: x.multinomial(2), "asks the GPU"),
        (lambda x: x.multinomial(1, replacement=True), "asks the GPU"),
        (lambda x: x.index_put_((x > 0,), torch.ones((), device=x.device)), "how many rows"),
        (lambda x: torch.tensor([1.0], device=GPU), "is waited for: cpu -> cuda:0"),
    ],
)
def test_waiting_is_refused_here(fake: FakeTensorMode, wait: Callable[[Tensor], object], message: str) -> None:
    """That the tests around it can fail; what asks for a value is refused of real tensors too."""
    with fake:
        given = torch.zeros(2, device=GPU)
        with NoSyncs(), pytest.raises(AssertionError, match=message):
            wait(given)
    if "GPU" in message or "rows" in message:
        with NoSyncs(anywhere=True), pytest.raises(AssertionError, match=message):
            wait(torch.zeros(2))


def retrieval_step(kind: str, **settings: Any) -> tuple[nn.Module, Any]:
    """Backbone and head, and a batch of several lengths of texts, equal ids and a sample without a caption."""
    backbone = small_backbone().train()
    head = RetrievalModule(
        hidden_size=32, embed_dim=16, lm_vocab=len(backbone.tokenizer), backbone=backbone, **settings
    ).train()
    ids = torch.tensor([3, 4, 3, 5])
    made = (
        pair_batch(products=ids)
        if kind == "pairs"
        else triplet_batch(target_ids=ids, captions=["red", "", "a blue shirt", "top"])
    )
    return head, made


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("pairs", {}), ("pairs", {"itm_samples": 2, "multi_positive": True, "negatives": "argmax"}),
     ("triplets", {}), ("triplets", {"itm_text": "caption", "caption_term": "queries"})],
)  # fmt: skip
def test_nothing_waits_in_a_step_of_retrieval(fake: FakeTensorMode, kind: str, settings: dict[str, Any]) -> None:
    """Copies to the GPU in the forward pass of a fake step, values and shapes in both passes of a real one."""
    head, batch = retrieval_step(kind, **settings)
    with NoSyncs(anywhere=True):
        torch.stack([*head.compute_losses(batch).values()]).sum().backward()
    with fake:
        move(head)
        given = moved(batch)
        with NoSyncs():
            losses = head.compute_losses(given)
    assert all(loss.device == GPU and loss.shape == () for loss in losses.values())


@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*")
def test_paintings(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What surrounds a solver, and one evaluation for it; diffusers' solvers themselves read values off tables on the CPU."""

    def once(predict: NoisePredictor, noise: Tensor, **_: Any) -> Tensor:
        return noise - predict(noise, torch.full((len(noise),), 999, device=noise.device))

    monkeypatch.setattr(diffusion, "sample", once)
    monkeypatch.setattr(vae, "check_finite", lambda pixels: None)  # fake tensors have no values that could be NaN
    # nor any that tell which rows have a garment, or the same picture: that is read back once a call
    known = editing.Known([True, True, False], ([0, 1, 2], [0, 1, 2], [0, 1, None]))
    monkeypatch.setattr(editing, "known_of", lambda batch: known)
    model = model_of("tryon.yaml").eval()
    head = model.diffusion_head
    assert head is not None
    batch = batch_for(model, "tryon")
    pictures = images(3, model.backbone.vision.image_size)
    with fake, torch.no_grad():
        move(model)
        rows = edit_batch(moved(batch), ["tryon", "design", "text"])
        queries = model.backbone.encode(rows).queries
        made = head.paint(queries, rows, seeds=[0, 1, 2], guidance=3.0, garment_guidance=2.0)
        assert made.shape == (3, 3, *head.edit_size)
        features = model.backbone.image_features(moved(pictures))
        composed = model.backbone.fused_pass(features, model.backbone.tokenize(["red"] * 3))[0]
        made = head.generate(composed, ["red"] * 3, seeds=[0, 1, 2])
    assert made.shape == (3, 3, *head.size)
    assert made.device == GPU
    assert made.dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*")
def test_embeddings_of_queries(fake: FakeTensorMode) -> None:
    model = model_of("phase2.yaml").eval()
    head = model.retrieval_head
    assert head is not None
    pictures = images(3, model.backbone.vision.image_size)
    with fake, torch.no_grad():
        move(model)
        found = head.compose(model.backbone, moved(pictures), ["red"] * 3), head.text_embeddings(model.backbone, ["blue"] * 3)
    assert all(vectors.device == GPU and len(vectors) == 3 for vectors in found)


def test_two_devices_are_refused_here(fake: FakeTensorMode) -> None:
    """That this file can fail: the kind of mistake it looks for."""
    with fake, pytest.raises(Exception, match="on the same device"):
        torch.empty(3, device=GPU) + torch.zeros(3)
