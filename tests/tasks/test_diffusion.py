"""The diffusion head: loss, context, dropped conditions, gradients, and generation against Stable Diffusion's own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from small import CLIP_TEXT, TEXTS, UNET, images, pair_batch, small_backbone, triplet_batch
from torch import Tensor, nn

from unifashion_pl.backbone import Encoding
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.samplers import draw_timesteps, start_noise, training_noise
from unifashion_pl.tasks import DiffusionModule

SIZE = (32, 24)


def head(**changes: Any) -> DiffusionModule:
    """Queries 32 wide, a context 24 wide, prompts of 12 tokens, latents of 8 x 6."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"query_width": 32, "size": SIZE, **changes}
    fields.setdefault("denoiser", Denoiser(config=UNET))
    if fields.get("context") != "tsa":
        fields.setdefault("text_encoder", PromptEncoder(config=CLIP_TEXT))
    return DiffusionModule(vae=ImageVAE("tiny"), **fields)


def queries(n: int = 4, q: int = 5) -> Tensor:
    return torch.randn(n, q, 32, generator=torch.Generator().manual_seed(1))


def pixels(n: int = 4) -> Tensor:
    return images(n, 32)[..., :24]


def is_null(module: DiffusionModule, context: Tensor) -> Tensor:
    """(B, N) bool: which tokens are the null token."""
    return (context == module.null_context).all(-1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("n", "gamma", "offset", "v"),
    [
        (1, None, 0.0, False),
        (4, None, 0.0, False),
        (4, 1.0, 0.0, False),
        (4, 0.05, 0.5, False),
        (4, None, 0.0, True),
        (4, 0.05, 0.5, True),
    ],
)
def test_the_loss_is_the_error_of_what_the_unet_gives_for_the_noisy_latents(
    n: int, gamma: float | None, offset: float, v: bool
) -> None:
    module = head(snr_gamma=gamma, noise_offset=offset).eval()
    module.denoiser.predicts_v.fill_(int(v))
    torch.manual_seed(5)
    loss = module.diffusion_loss(queries(n), TEXTS[:n], pixels(n))
    torch.manual_seed(5)
    latents = module.vae.encode(pixels(n), sample=True)
    noise, t = training_noise(latents, offset), draw_timesteps(n, module.denoiser.alpha_bar, gamma, v)
    level = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t.numpy()].reshape(-1, 1, 1, 1)
    noisy = np.sqrt(level) * latents.numpy() + np.sqrt(1 - level) * noise.numpy()
    target = np.sqrt(level) * noise.numpy() - np.sqrt(1 - level) * latents.numpy() if v else noise.numpy()
    assert module.adapter is not None
    assert module.text_encoder is not None
    context = torch.cat([module.adapter(queries(n)), module.text_encoder(TEXTS[:n])], 1)
    out = module.denoiser.unet(torch.from_numpy(noisy).float(), t, encoder_hidden_states=context).sample
    assert float(loss) == pytest.approx(float(np.mean((out.numpy() - target) ** 2)), rel=1e-4)


def test_timesteps_are_uniform_and_every_sample_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head(context="tsa").eval()
    seen: list[Tensor] = []

    def blind(noisy: Tensor, timesteps: Tensor, _context: Tensor) -> Tensor:
        seen.append(timesteps)
        return torch.zeros_like(noisy)

    monkeypatch.setattr(module.denoiser, "forward", blind)
    monkeypatch.setattr(module.vae, "encode", lambda given, sample: torch.zeros(len(given), 4, 1, 1))
    torch.manual_seed(0)
    loss = module.diffusion_loss(queries(1).expand(20_000, -1, -1), [""] * 20_000, torch.zeros(20_000, 1))
    assert float(loss) == pytest.approx(1, abs=0.03)
    counts = torch.bincount(seen[0], minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 0
    assert float(counts.view(10, 100).sum(1).float().std()) < 120


@torch.no_grad()
def test_the_context_is_adapted_queries_then_text() -> None:
    module = head().eval()
    assert isinstance(module.adapter, nn.Linear)
    assert module.text_encoder is not None
    adapted = queries().numpy() @ module.adapter.weight.numpy().T + module.adapter.bias.numpy()
    context = module.build_context(queries(), TEXTS)
    assert context.shape == (4, 5 + 12, 24)
    torch.testing.assert_close(context[:, :5], torch.from_numpy(adapted), atol=1e-5, rtol=0)
    assert torch.equal(context[:, 5:], module.text_encoder(TEXTS))
    alone = head(context="tsa").eval()
    alone.load_state_dict({name: module.state_dict()[name] for name in alone.state_dict()})
    assert torch.equal(alone.build_context(queries(), TEXTS), context[:, :5])
    text = head(context="text").eval()
    assert torch.equal(text.build_context(queries(), TEXTS), text.build_context(None, TEXTS))
    assert text.build_context(None, TEXTS).shape == (4, 12, 24)


@torch.no_grad()
def test_parts_that_a_context_does_not_read_are_not_built() -> None:
    assert head(context="tsa", text_encoder=PromptEncoder(config=CLIP_TEXT)).text_encoder is None
    assert head(context="text").adapter is None
    assert not any(name.startswith("adapter") for name in head(context="text").state_dict())


@torch.no_grad()
def test_dropping_the_context_leaves_null_tokens_and_dropping_queries_leaves_the_text() -> None:
    for context, tokens in (("tsa+text", 17), ("tsa", 5), ("text", 12)):
        module = head(context=context, drop_context=1.0, drop_queries=0.0)
        dropped = module.build_context(queries(), TEXTS, drop=True)
        assert is_null(module, dropped).shape == (4, tokens)
        assert is_null(module, dropped).all(), context
    module = head(drop_context=0.0, drop_queries=1.0).eval()
    dropped, full = module.build_context(queries(), TEXTS, drop=True), module.build_context(queries(), TEXTS)
    assert is_null(module, dropped)[:, :5].all()
    assert torch.equal(dropped[:, 5:], full[:, 5:])
    assert not is_null(module, full).any()
    alone = head(context="tsa", drop_context=0.0, drop_queries=1.0)
    assert not is_null(alone, alone.build_context(queries(), TEXTS, drop=True)).any()


@torch.no_grad()
def test_each_sample_has_a_draw_of_its_own() -> None:
    module = head(context="tsa", drop_context=0.2)
    dropped = is_null(module, module.build_context(queries(1, 2).expand(10_000, -1, -1), [""] * 10_000, drop=True))
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert float(dropped[:, 0].float().mean()) == pytest.approx(0.2, abs=0.012)


@torch.no_grad()
def test_a_batch_can_share_one_draw() -> None:
    module = head(context="tsa", drop_context=0.5, drop_scope="batch")
    draws = [is_null(module, module.build_context(queries(8), [""] * 8, drop=True)) for _ in range(100)]
    assert all(bool(d.all()) or not bool(d.any()) for d in draws)
    assert 30 < sum(bool(d.any()) for d in draws) < 70


@torch.no_grad()
def test_the_two_kinds_of_dropping_are_independent() -> None:
    module = head(drop_context=0.3, drop_queries=0.4)
    torch.manual_seed(0)
    dropped = is_null(module, module.build_context(queries(1, 2).expand(2000, -1, -1), ["red"] * 2000, drop=True))
    without_queries, nothing = dropped[:, 0], dropped[:, -1]
    assert float(nothing.float().mean()) == pytest.approx(0.3, abs=0.04)
    assert float((without_queries & ~nothing).float().mean()) == pytest.approx(0.7 * 0.4, abs=0.04)
    assert bool((without_queries | ~nothing).all())


@torch.no_grad()
def test_conditions_are_dropped_in_training_only() -> None:
    module = head(drop_context=1.0)

    def loss(q: Tensor) -> float:
        torch.manual_seed(3)
        return float(module.diffusion_loss(q, TEXTS, pixels()))

    assert loss(queries()) == loss(-queries())
    module.eval()
    assert loss(queries()) != loss(-queries())


@pytest.mark.parametrize("adapter", ["linear", "residual_mlp"])
def test_a_frozen_unet_passes_gradients_to_the_queries(adapter: str) -> None:
    width = {"query_width": 24} if adapter == "residual_mlp" else {}
    module = head(adapter=adapter, **width).eval()
    for part in (module.denoiser, module.text_encoder):
        assert part is not None
        part.requires_grad_(False)
    q = queries()[..., : width.get("query_width", 32)].clone().requires_grad_()
    backbone = small_backbone()
    encoding = Encoding(torch.empty(0), backbone.tokenize(TEXTS), q, None)
    module.losses(backbone, pair_batch(pixels=pixels()), encoding)["q2i"].backward()
    assert q.grad is not None
    assert (q.grad.abs().amax(2) > 0).all()
    assert module.adapter is not None
    assert all(p.grad is not None and p.grad.any() for p in module.adapter.parameters())
    assert all(p.grad is None for p in module.denoiser.parameters())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_every_parameter_has_a_gradient_whatever_the_draws_say(probability: float) -> None:
    module = head(drop_context=probability, drop_queries=probability, drop_scope="batch").train()
    module.diffusion_loss(queries(), TEXTS, pixels()).backward()
    assert [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    assert module.null_context.grad is not None
    assert bool(module.null_context.grad.any()) is (probability == 1.0)


@torch.no_grad()
@pytest.mark.parametrize("make", [pair_batch, triplet_batch])
def test_pairs_and_triplets_give_a_loss_over_their_first_images(make: Any) -> None:
    module, backbone = head(max_samples=2).eval(), small_backbone().eval()
    batch = make(pixels=pixels())
    encoding = backbone.encode(batch)
    torch.manual_seed(2)
    losses = module.losses(backbone, batch, encoding)
    torch.manual_seed(2)
    assert set(losses) == {"q2i"}
    assert torch.equal(losses["q2i"], module.diffusion_loss(encoding.queries[:2], batch.prompts[:2], batch.pixels[:2]))
    module.max_samples = None
    torch.manual_seed(2)
    assert not torch.equal(losses["q2i"], module.losses(backbone, batch, encoding)["q2i"])
    assert module.losses(backbone, None, encoding) == {}  # type: ignore[arg-type]


def test_pictures_of_another_size_or_none_are_refused_with_the_setting_to_change() -> None:
    module, backbone = head(), small_backbone()
    for wrong, found in ((images(4, 32), r"\(32, 32\)"), (None, "None")):
        batch = pair_batch(pixels=wrong)
        with pytest.raises(ValueError, match=rf"paints \(32, 24\) and the batch's pixels are {found}: set pixel_size"):
            module.losses(backbone, batch, backbone.encode(batch))


@torch.no_grad()
def test_the_number_of_absent_queries_is_that_of_training_and_kept_in_checkpoints() -> None:
    module = head().eval()
    assert module.build_context(None, TEXTS).shape == (4, 1 + 12, 24)
    module.diffusion_loss(queries(q=5), TEXTS, pixels())
    other = head().eval()
    other.load_state_dict(module.state_dict())
    context = other.build_context(None, TEXTS)
    assert int(other.num_queries) == 5
    assert is_null(other, context)[:, :5].all()
    module.drop_queries, module.drop_context = 1.0, 0.0
    assert torch.equal(context, module.build_context(queries(q=5), TEXTS, drop=True))
    assert "alpha_bar" not in module.state_dict()


@torch.no_grad()
@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_pictures_equal_those_of_stable_diffusion_s_pipeline(pipeline_folder: Path, scale: float) -> None:
    source = str(pipeline_folder)
    torch.manual_seed(0)
    module = DiffusionModule(
        denoiser=Denoiser(source=source),
        vae=ImageVAE(source),
        text_encoder=PromptEncoder(source=source),
        context="text",
        size=SIZE,
    )
    theirs = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    prompts, seeds = ["red dress", "blue top"], [11, 12]
    arguments = {
        "prompt": prompts,
        "negative_prompt_embeds": module.null_context.expand(2, 12, -1) if scale != 1 else None,
        "height": 32,
        "width": 24,
        "num_inference_steps": 12,
        "guidance_scale": scale,
        "latents": start_noise(seeds, (4, 8, 6)),
    }
    latents = module.generate_latents(None, prompts, seeds, steps=12, guidance=scale)
    torch.testing.assert_close(latents, theirs(**arguments, output_type="latent").images, atol=1e-4, rtol=1e-4)
    pictures = module.generate(None, prompts, seeds=seeds, steps=12, guidance=scale).permute(0, 2, 3, 1).int().numpy()
    expected = np.stack([np.asarray(p).astype(int) for p in theirs(**arguments, output_type="pil").images])
    assert np.abs(pictures - expected).max() <= 1
    assert expected.std() > 5


@torch.no_grad()
def test_queries_are_guided_against_as_many_null_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head()
    seen: list[Tensor] = []
    original = module.denoiser.forward
    monkeypatch.setattr(module.denoiser, "forward", lambda z, t, context: (seen.append(context), original(z, t, context))[1])
    module.generate(queries(2), TEXTS[:2], seeds=[0, 1], sampler="fast", steps=3)
    assert [c.shape for c in seen] == [(4, 17, 24)] * 3
    module.eval()
    assert is_null(module, seen[0][2:]).all()
    assert torch.equal(seen[0][:2], module.build_context(queries(2), TEXTS[:2]))
    seen.clear()
    module.generate(queries(2), TEXTS[:2], seeds=[0, 1], sampler="fast", steps=3, guidance=1.0)
    assert [c.shape for c in seen] == [(2, 17, 24)] * 3


@torch.no_grad()
def test_guidance_is_the_call_s_or_the_head_s_or_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []

    def spy(_predict: object, _conditions: object, absent: list[tuple[float, object]]) -> Any:
        scales.extend(scale for scale, _ in absent)
        return lambda z, t: z

    monkeypatch.setattr("unifashion_pl.tasks.diffusion.guided", spy)
    for module in (head(), head(guidance=3.0)):
        for q, guidance in ((queries(1), None), (None, None), (queries(1), 0.0)):
            module.generate(q, TEXTS[:1], seeds=[0], sampler="fast", steps=1, guidance=guidance)
    assert scales == [5.0, 7.5, 0.0, 3.0, 3.0, 0.0]


@torch.no_grad()
def test_a_seed_gives_one_picture_whatever_the_batch() -> None:
    module = head().train()
    arguments: dict[str, Any] = {"sampler": "fast", "steps": 5}
    seeds = [3, 4, 5, 6]
    together = module.generate_latents(queries(), TEXTS, seeds, **arguments)
    alone = [module.generate_latents(queries()[i : i + 1], TEXTS[i : i + 1], [seeds[i]], **arguments) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=1e-4)
    again = module.generate(queries(), TEXTS, seeds=seeds, **arguments)
    assert torch.equal(again, module.generate(queries(), TEXTS, seeds=seeds, **arguments))
    assert not torch.equal(again, module.generate(queries(), TEXTS, seeds=[4, 5, 6, 7], **arguments))


def test_pictures_are_uint8_of_the_head_s_size_and_modes_are_restored() -> None:
    module = head(query_width=24, adapter="residual_mlp").train()
    module.denoiser.unet.mid_block.eval()
    modes = [part.training for part in module.modules()]
    arguments: dict[str, Any] = {"seeds": [0, 1], "sampler": "fast", "steps": 2}
    first, second = (module.generate(queries(2)[..., :24], TEXTS[:2], **arguments) for _ in range(2))
    assert first.shape == (2, 3, *SIZE)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert [part.training for part in module.modules()] == modes
    assert module.generate(None, [], seeds=[]).shape == (0, 3, *SIZE)
    assert module.generate(None, TEXTS[:2], **arguments).shape == (2, 3, *SIZE)


def test_requests_that_cannot_be_met_are_named() -> None:
    module = head()
    with pytest.raises(ValueError, match="2 prompts, 1 seeds, 2 rows of queries: expected equally many"):
        module.generate(queries(2), TEXTS[:2], seeds=[0])
    with pytest.raises(ValueError, match="4 prompts, 4 seeds, 2 rows of queries"):
        module.generate(queries(2), TEXTS, seeds=range(4))
    with pytest.raises(ValueError, match="unknown sampler 'plms'; known are paper, fast"):
        module.generate(queries(1), TEXTS[:1], seeds=[0], sampler="plms")
    with pytest.raises(ValueError, match=r"context='tsa'\): it cannot paint without queries"):
        head(context="tsa").generate(None, TEXTS[:1], seeds=[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": "image"}, "unknown context 'image'; known are tsa\\+text, tsa, text"),
        ({"drop_scope": "rank"}, "unknown drop_scope 'rank'; known are sample, batch"),
        ({"adapter": "mlp"}, "unknown adapter 'mlp'; known are linear, residual_mlp"),
        ({"adapter": "residual_mlp"}, "equal widths, got queries 32 and context 24: use linear"),
        ({"context_width": 768}, "context_width is 768, the U-Net's cross_attention_dim is 24"),
        ({"text_encoder": None}, "pass text_encoder=…, or choose context='tsa'"),
        ({"size": (32, 28)}, r"size is \(32, 28\), expected multiples of 8"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**changes)


def test_a_text_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="text encoder is 32 wide, the U-Net's cross_attention_dim is 24"):
        head(text_encoder=PromptEncoder(config={**CLIP_TEXT, "hidden_size": 32}))


def trainer() -> L.Trainer:
    return L.Trainer(
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def test_alone_it_trains_under_lightning_and_says_when_there_is_nothing_to_learn() -> None:
    module = head(backbone=small_backbone(), learning_rate=1e-3)
    assert module.backbone is not None
    before = module.backbone.query_tokens.detach().clone()
    run = trainer()
    batch: Any = [{"pairs": pair_batch(pixels=pixels()), "triplets": triplet_batch(pixels=pixels())}]
    run.fit(module, torch.utils.data.DataLoader(batch, batch_size=None))
    assert not torch.equal(before, module.backbone.query_tokens)
    assert {"train/q2i", "train/loss"} <= set(run.callback_metrics)
    with pytest.raises(TypeError, match="the loader gave NoneType as 'eval'"):
        module.training_step({"eval": None}, 0)  # type: ignore[dict-item]
    with pytest.raises(RuntimeError, match="pass backbone="):
        head().training_step({"pairs": pair_batch(pixels=pixels())}, 0)


def test_a_few_steps_reduce_the_loss() -> None:
    module = head().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    q, prompts, x = queries().repeat(4, 1, 1), TEXTS * 4, pixels().repeat(4, 1, 1, 1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = module.diffusion_loss(q, prompts, x)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
