"""Try-on and design rows: what they show, what is absent and how, what is dropped, the loss, and painting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import CLIP_TEXT, TEXTS, UNET, images, pair_batch, small_backbone, tryon_batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unifashion_pl.data.samples import EditBatch
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.samplers import released_start, sample, start_noise
from unifashion_pl.tasks import DiffusionModule, EditSettings, editing
from unifashion_pl.tasks.editing import drop_conditions, edit_batch, encode_conditions, known_of, sampling_conditions

SIZE = (32, 24)


def head(garment: str | None = "branch", channels: int = 13, **changes: Any) -> DiffusionModule:
    """Queries 32 wide, latents of 8 x 6; the garment branch is open, as after training."""
    torch.manual_seed(0)
    denoiser = Denoiser(config=UNET, in_channels=channels, garment=garment)  # type: ignore[arg-type]
    if denoiser.garment is not None:
        with torch.no_grad():
            for conv in (denoiser.garment.hint, *denoiser.garment.zero_convs):
                conv.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
    fields: dict[str, Any] = {"query_width": 32, "size": SIZE, "text_encoder": PromptEncoder(config=CLIP_TEXT), **changes}
    return DiffusionModule(denoiser=denoiser, vae=ImageVAE("tiny"), **fields)


def queries(n: int = 4) -> Tensor:
    return torch.randn(n, 5, 32, generator=torch.Generator().manual_seed(1))


def tryon(n: int = 4, **changes: object) -> EditBatch:
    return edit_batch(tryon_batch(n, **changes), ["tryon"] * n)  # type: ignore[arg-type]


def test_each_task_shows_what_it_is_made_from() -> None:
    batch = tryon_batch()
    made = edit_batch(batch, ["tryon", "design", "text", "design"])
    assert made.texts == ["", *TEXTS[1:]]
    assert made.has_image.tolist() == made.has_garment.tolist() == [True, True, False, True]
    assert made.has_photo.tolist() == [True, False, False, False]
    assert made.has_pose.tolist() == [True] * 4
    assert batch.sketches is not None
    assert torch.equal(made.garments[0], batch.garment_pixels[0])
    assert torch.equal(made.garments[1], batch.sketches[1])
    assert torch.equal(made.images[0], batch.garments[0])
    assert torch.equal(made.images[3], EncoderTransform(32)(batch.sketches[3]))
    assert torch.equal(made.pixels, batch.pixels)


def test_what_a_task_needs_and_the_data_lacks_is_named() -> None:
    assert not edit_batch(tryon_batch(pose=None, sketches=None), ["tryon"] * 4).has_pose.any()
    with pytest.raises(ValueError, match="vitonhd/train has no sketches to learn design from: set its share"):
        edit_batch(tryon_batch(sketches=None), ["design"] * 4)
    with pytest.raises(ValueError, match="design encodes sketches: train without features"):
        edit_batch(tryon_batch(garments=torch.zeros(4, 7, 16)), ["design"] * 4)


def test_tasks_are_drawn_by_their_shares() -> None:
    torch.manual_seed(0)
    drawn = EditSettings(tasks={"tryon": 1, "design": 2, "text": 1}).draw(10_000)
    shares = [sum(one == task for one in drawn) / 10_000 for task in ("tryon", "design", "text")]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    assert set(EditSettings().draw(50)) == {"tryon"}
    for tasks, message in (
        ({"swap": 1.0}, r"unknown tasks \['swap'\]; known are tryon, design, text"),
        ({"tryon": 0.0}, "not all 0"),
        ({"tryon": -1.0, "design": 2.0}, "numbers from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            EditSettings(tasks=tasks)
    with pytest.raises(ValueError, match="unknown drops 'none'; known are each, released"):
        EditSettings(drops="none")  # type: ignore[arg-type]


@torch.no_grad()
def test_a_mask_that_is_white_on_the_shirt_repaints_it() -> None:
    module, batch = head().eval(), tryon()
    made = encode_conditions(module.vae, module.denoiser, batch, sample=False)
    assert set(made) == {"person", "keep", "pose", "garment", "gate"}
    grey = torch.where(batch.masks, torch.tensor(128, dtype=torch.uint8), batch.pixels)
    assert torch.equal(made["person"], module.vae.encode(grey))
    assert not made["keep"][:, :, 2:4, 2:3].any()
    assert bool((made["keep"][:, :, 5:] == 1).all())
    assert torch.equal(made["pose"], module.vae.encode(batch.pose))
    assert torch.equal(made["garment"], module.vae.encode(batch.garments))


@torch.no_grad()
def test_the_latent_mask_is_bilinear_without_antialiasing() -> None:
    """By a factor of four that is the mean of the four pixels in the middle of each cell."""
    module = head().eval()
    masks = torch.rand(4, 1, *SIZE, generator=torch.Generator().manual_seed(0)) > 0.5
    keep = encode_conditions(module.vae, module.denoiser, tryon(masks=masks), sample=False)["keep"]
    kept = (~masks).float().view(4, 8, 4, 6, 4)
    torch.testing.assert_close(keep[:, 0], kept[:, :, 1:3, :, 1:3].mean((2, 4)), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_absent_pose_is_zero_in_latent_space_and_an_absent_garment_a_closed_gate() -> None:
    module, batch = head().eval(), tryon()
    batch.has_pose = torch.tensor([True, False, True, False])
    batch.has_garment = torch.tensor([False, True, True, True])
    made = encode_conditions(module.vae, module.denoiser, batch, sample=False)
    assert made["pose"].abs().amax((1, 2, 3)).bool().tolist() == [True, False, True, False]
    assert made["gate"].tolist() == [0, 1, 1, 1]
    assert "gate" not in encode_conditions(module.vae, head(None).denoiser, batch, sample=False)


def test_what_a_training_batch_lacks_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data without poses, and rows that show text alone; of all else the latents stay."""
    module, batch = head(), edit_batch(tryon_batch(4, pose=None), ["tryon", "text", "design", "text"])
    known, asked = (encode_conditions(module.vae, module.denoiser, b, sample=False) for b in (batch, replace(batch, known=[])))
    for name in known:
        rows = [0, 2] if name == "garment" else [0, 1, 2, 3]
        torch.testing.assert_close(known[name][rows], asked[name][rows], rtol=1e-4, atol=1e-5)
    assert known["garment"][[1, 3]].abs().max() == known["pose"].abs().max() == 0
    encoded: list[int] = []
    moments = module.vae.moments
    monkeypatch.setattr(module.vae, "moments", lambda pixels: encoded.append(len(pixels)) or moments(pixels))
    encode_conditions(module.vae, module.denoiser, batch, sample=True)
    assert encoded == [4, 2]
    rows = batch[[1, 3]]
    assert rows.known == [(False, False)] * 2
    encode_conditions(module.vae, module.denoiser, rows, sample=True)
    assert encoded == [4, 2, 2]


def test_pose_and_garment_are_dropped_per_sample_and_independently() -> None:
    torch.manual_seed(0)
    full = {"pose": torch.ones(10_000, 4, 1, 1), "gate": torch.ones(10_000), "person": torch.ones(1)}
    out = drop_conditions(full, EditSettings(drop_pose=0.1, drop_garment=0.3))
    pose, garment = out["pose"][:, 0, 0, 0] == 0, out["gate"] == 0
    assert float(pose.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(garment.float().mean()) == pytest.approx(0.3, abs=0.015)
    assert float((pose & garment).float().mean()) == pytest.approx(0.03, abs=0.007)
    assert bool(out["person"].all())
    released = drop_conditions(full, EditSettings(drop_pose=0.9, drop_garment=0.9, drops="released"))
    assert bool(released["pose"].all() & released["gate"].all())


@torch.no_grad()
def test_the_loss_is_the_error_of_the_noise_over_the_true_picture() -> None:
    module, batch = head().eval(), tryon()
    torch.manual_seed(5)
    losses = module.edit_losses(queries(), batch)
    assert set(losses) == {"q2i"}
    torch.manual_seed(5)
    latents = module.vae.encode(batch.pixels, sample=True).float()
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (4,))
    level = module.denoiser.alpha_bar[t].view(-1, 1, 1, 1)
    conditions = encode_conditions(module.vae, module.denoiser, batch, sample=False)
    context = module.build_context(queries(), batch.texts)
    eps = module.denoiser(level.sqrt() * latents + (1 - level).sqrt() * noise, t, context, **conditions)
    assert float(losses["q2i"]) == pytest.approx(float((eps - noise).square().mean()), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("garment", ["branch", "panels"])
def test_rows_see_their_garment_and_their_text_alone(garment: str) -> None:
    module = head(garment).eval()

    def loss(**changes: Any) -> float:
        batch = tryon()
        for name, value in changes.items():
            setattr(batch, name, value)
        torch.manual_seed(2)
        return float(module.edit_losses(queries(), batch)["q2i"])

    other = images(4, 32, 9)[..., :24]
    usual = loss()
    assert loss(garments=other) != usual
    assert loss(pose=other) != usual
    assert loss(texts=TEXTS) != usual
    closed = torch.zeros(4, dtype=torch.bool)
    assert loss(has_garment=closed, garments=other) == loss(has_garment=closed)
    torch.manual_seed(2)
    blind = tryon()
    blind.has_image = closed
    a = float(module.edit_losses(queries(), blind)["q2i"])
    torch.manual_seed(2)
    assert a == float(module.edit_losses(-queries(), blind)["q2i"]) != usual


def test_every_trainable_part_has_a_gradient_whatever_is_dropped() -> None:
    for chance in (0.0, 1.0):
        module = head(editing=EditSettings(drop_pose=chance, drop_garment=chance), drop_context=chance).train()
        module.edit_losses(queries(), tryon())["q2i"].backward()
        assert [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    module = head().train()
    backbone = small_backbone()
    module.losses(backbone, pair_batch(pixels=tryon_batch().pixels), backbone.encode(pair_batch()))["q2i"].backward()
    assert [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    assert module.denoiser.garment is not None
    assert not any(p.grad.any() for p in module.denoiser.garment.parameters() if p.grad is not None)


def test_the_branch_learns_to_use_the_garment() -> None:
    """Garments of one colour each; the person wears that colour. What is left of the error is measured with and without."""
    torch.manual_seed(0)
    module = head(context="text", drop_context=0.0, editing=EditSettings(drop_garment=0.0)).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)

    def batch(seed: int) -> EditBatch:
        colours = images(8, 1, seed)
        made = tryon(8, pixels=torch.full((8, 3, *SIZE), 128, dtype=torch.uint8))
        made.pixels = torch.where(made.masks, colours, made.pixels)
        made.garments = colours.expand(-1, -1, *SIZE).contiguous()
        made.texts = [""] * 8
        return made

    def error(**changes: Any) -> float:
        torch.manual_seed(1)
        total = 0.0
        with torch.no_grad():
            for seed in range(8):
                made = batch(1000 + seed)
                for name, value in changes.items():
                    setattr(made, name, value)
                total += float(module.edit_losses(queries(8), made)["q2i"])
        return total / 8

    for step in range(60):
        optimizer.zero_grad()
        loss = module.edit_losses(queries(8), batch(step))["q2i"]
        loss.backward()
        optimizer.step()
    module.eval()
    assert error() < error(has_garment=torch.zeros(8, dtype=torch.bool))


@torch.no_grad()
def test_painting_does_not_depend_on_the_batch() -> None:
    module, batch = head().train(), tryon()
    arguments: dict[str, Any] = {"sampler": "fast", "steps": 4, "guidance": 3.0, "garment_guidance": 2.0}
    together = module.paint(queries(), batch, seeds=[3, 4, 5, 6], **arguments)
    alone = module.paint(queries()[2:3], tryon(1, **third_alone()), seeds=[5], **arguments)
    assert together.shape == (4, 3, *SIZE)
    assert together.dtype == torch.uint8
    assert (together[2].int() - alone[0].int()).abs().max() <= 1
    assert module.training


def third_alone() -> dict[str, object]:
    """Fields of a batch of one: the third row of :func:`tryon_batch`."""
    full = tryon_batch()
    names = ("garments", "pixels", "masks", "pose", "garment_pixels", "sketches", "worn")
    return {name: getattr(full, name)[2:3] for name in names} | {"keys": ["v2"], "texts": [""]}


@torch.no_grad()
def test_guidance_costs_one_row_per_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head()
    rows: list[tuple[int, list[float]]] = []
    original = module.denoiser.forward

    def spy(z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        all_rows = torch.arange(len(z)) if "gate" in conditions else torch.arange(0)
        shown = set(conditions.get("rows", all_rows).tolist())
        if "gate" in conditions:
            assert conditions["gate"].nonzero()[:, 0].tolist() == sorted(shown)
        rows.append((len(z), [int(i in shown) for i in range(len(z))]))
        return original(z, t, **conditions)

    monkeypatch.setattr(module.denoiser, "forward", spy)
    designs = edit_batch(tryon_batch(2), ["design", "text"])
    for batch, arguments, expected in (
        (tryon(2), {}, [1, 1]),
        (designs, {}, [1, 0, 1, 0]),
        (tryon(2), {"garment_guidance": 2.0}, [1, 1, 0, 0]),
        (designs, {"garment_guidance": 2.0}, [1, 0, 1, 0, 0, 0]),
    ):
        rows.clear()
        module.paint(queries(2), batch, seeds=[0, 1], sampler="fast", steps=2, **arguments)  # type: ignore[arg-type]
        assert rows == [(len(expected), expected)] * 2
    rows.clear()
    module.paint(queries(2), tryon(2), seeds=[0, 1], sampler="fast", steps=10, garment_until=0.3)
    assert [gate for _, gate in rows] == [[1, 1]] * 3 + [[0, 0]] * 7
    rows.clear()
    given: dict[str, Any] = {"sampler": "fast", "steps": 2, "garment_guidance": 2.0, "garment_until": 0.5}
    module.paint(queries(2), tryon(2), seeds=[0, 1], **given)
    assert rows == [(4, [1, 1, 0, 0]), (2, [0, 0])]  # behind its part nothing is left to be guided by


@torch.no_grad()
@pytest.mark.parametrize("garment", ["branch", "panels"])
def test_a_closed_gate_runs_no_branch_and_gives_the_picture_of_one_that_ran(garment: str) -> None:
    """Against the branch run at every step for every row and multiplied by 0: by its FLOPs, and by what is painted."""
    module = head(garment).eval()
    if module.denoiser.garment is not None:
        for conv in (module.denoiser.garment.hint, *module.denoiser.garment.zero_convs):
            nn.init.normal_(conv.weight, std=0.2)  # type: ignore[arg-type]
    batch = edit_batch(tryon_batch(3), ["tryon", "text", "design"])
    seeds, q, steps, until = [1, 2, 3], queries(3), 20, 0.2
    conditions = encode_conditions(module.vae, module.denoiser, batch, sample=False)
    conditions["context"] = module.build_context(q, batch.texts, has_queries=batch.has_image)

    def always(z: Tensor, t: Tensor) -> Tensor:
        gate = conditions["gate"] * (t >= 1000 * (1 - until))
        return module.denoiser(z, t, **{**conditions, "gate": gate})

    expected = module.vae.decode(sample(always, start_noise(seeds, (4, 8, 6)), sampler="fast"))

    def paint(rows: list[int], part: float) -> Tensor:
        own = {"seeds": [seeds[i] for i in rows], "guidance": 1.0, "garment_until": part}
        return module.paint(q[rows], batch[rows], sampler="fast", **own)  # type: ignore[arg-type]

    assert (paint([0, 1, 2], until).int() - expected.int()).abs().max() <= 1
    assert (paint([0, 1, 2], 1.0).int() - expected.int()).abs().max() > 1
    none, part, full = (flops(lambda p=p: paint([0], p)) for p in (0.0, until, 1.0))  # type: ignore[misc]
    assert 5 * (part - none) == full - none > 0
    mixed = flops(lambda: paint([0, 1, 2], until)), flops(lambda: paint([0, 1, 2], 0.0))
    assert mixed[0] - mixed[1] == 2 * (part - none)  # two of the three rows have a garment
    assert steps * until == 4


def flops(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@torch.no_grad()
def test_equal_pictures_are_encoded_once_and_unread_ones_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head().eval()
    batch = edit_batch(tryon_batch(4), ["tryon", "text", "tryon", "design"])[[0, 0, 1, 2, 3, 3]]
    batch.has_pose = torch.tensor([True, True, False, False, True, True])
    batch.pose[5] += 1
    batch.pixels[1][batch.masks[1].expand(3, -1, -1)] += 1  # under the grey
    expected = encode_conditions(module.vae, module.denoiser, batch, sample=False)
    expected["garment"] = expected["garment"] * batch.has_garment.view(-1, 1, 1, 1)
    counts: list[int] = []
    encode = module.vae.encode
    monkeypatch.setattr(module.vae, "encode", lambda x, **how: (counts.append(len(x)), encode(x, **how))[1])
    made = sampling_conditions(module.vae, module.denoiser, batch, known_of(batch))
    assert counts == [4, 3, 3]
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, atol=1e-5, rtol=1e-5, msg=name)
    counts.clear()
    batch.has_pose[:] = False
    sampling_conditions(module.vae, module.denoiser, batch[[2]], known_of(batch[[2]]))
    assert counts == [1]


@torch.no_grad()
def test_the_released_start_shows_through(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = head(), tryon(2)
    starts: list[Tensor] = []

    def spy(_predict: object, noise: Tensor, **_: object) -> Tensor:
        starts.append(noise)
        return noise

    monkeypatch.setattr("unifashion_pl.tasks.diffusion.sample", spy)
    for start in ("noise", "released"):
        module.paint(queries(2), batch, seeds=[0, 1], start=start)  # type: ignore[arg-type]
    noise = start_noise([0, 1], (4, 8, 6))
    assert torch.equal(starts[0], noise)
    torch.testing.assert_close(starts[1], released_start(noise, module.vae.encode(batch.pixels), module.denoiser.alpha_bar))


def test_requests_that_cannot_be_met_are_named() -> None:
    module = head()
    with pytest.raises(ValueError, match="4 prompts, 1 seeds, 4 rows"):
        module.paint(queries(), tryon(), seeds=[0])
    with pytest.raises(ValueError, match="unknown start 'truth'; known are noise, released"):
        module.paint(queries(), tryon(), seeds=range(4), start="truth")  # type: ignore[arg-type]
    large = edit_batch(tryon_batch(1, 64, 48), ["tryon"])
    with pytest.raises(ValueError, match=r"persons are \(64, 48\), this head paints \(32, 24\)"):
        module.paint(queries(1), large, seeds=[0])
    with pytest.raises(ValueError, match="4 input channels and cannot read person, keep, pose"):
        head(None, 4).paint(queries(), tryon(), seeds=range(4))


def test_losses_on_attention_are_exact_in_a_bf16_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells' coordinates are products with the attention, which autocast would round to multiples of 1/128."""
    module = head(editing=EditSettings(tv_weight=0.5, flow_weight=0.25, shape_weight=2.0, drop_garment=0.0)).train()
    both: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    losses = editing.attention_losses

    def twice(*args: Any) -> dict[str, Tensor]:
        with torch.autocast("cpu", enabled=False):
            exact = losses(*args)
        both.append((losses(*args), exact))
        return both[0][0]

    monkeypatch.setattr(editing, "attention_losses", twice)
    with torch.autocast("cpu", torch.bfloat16):
        module.edit_losses(queries(), tryon())
    ((got, exact),) = both
    assert got.keys() == {"tv", "flow", "shape"}
    assert all(torch.equal(value, exact[name]) for name, value in got.items())


def test_optional_losses_read_the_attention_and_reach_the_branch() -> None:
    module = head(editing=EditSettings(tv_weight=0.5, flow_weight=0.25, shape_weight=2.0, drop_garment=0.0)).train()
    losses = module.edit_losses(queries(), tryon())
    assert set(losses) == {"q2i", "tv", "flow", "shape"}
    assert module.denoiser.garment is not None
    keys = module.denoiser.garment.blocks[1].transformer_blocks[0].attn2.to_k.weight  # type: ignore[union-attr, index]
    for name in ("tv", "flow", "shape"):
        assert losses[name].item() > 0
        grad = torch.autograd.grad(
            losses[name], [p for p in module.parameters() if p.requires_grad], retain_graph=True, allow_unused=True
        )
        assert any(g is not None and g.any() for g in grad), name
    assert keys.requires_grad
    hidden = tryon()
    hidden.has_garment = torch.zeros(4, dtype=torch.bool)
    none = module.edit_losses(queries(), hidden)
    assert all(none[name].item() == 0 for name in ("tv", "flow", "shape"))
    module.editing.shape_weight = 0.0
    assert set(module.edit_losses(queries(), tryon(shapes=None))) == {"q2i", "tv", "flow"}
    module.editing.shape_weight = 2.0
    with pytest.raises(ValueError, match="needs to know where the garment lies in its photo"):
        module.edit_losses(queries(), tryon(shapes=None))
    with pytest.raises(ValueError, match="need to know where the garment is worn"):
        module.edit_losses(queries(), tryon(worn=None))
