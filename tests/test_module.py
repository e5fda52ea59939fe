"""The orchestra: one step over several streams, building and reloading without a YAML."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small import editor, opened, pair_batch, streams, tiny, triplet_batch, tryon_batch

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import LearntAverage
from unifashion_pl.freezing import apply_policy, part_of
from unifashion_pl.weights.checkpoint import load_weights


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return tiny()


def trained(model: UniFashionModule, stream: str, folder: Path) -> UniFashionModule:
    """After two steps, with a checkpoint of each."""
    trainer = L.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader([{stream: streams()[stream]}] * 2, batch_size=None))  # type: ignore[arg-type]
    return model


def test_targets_queries_follow_the_references_until_they_train(tmp_path: Path) -> None:
    """q_T starts as a copy of q_R: phase 2 has to get the one that phase 1 made."""
    alone: dict[str, object] = {"caption": None, "diffusion": None}
    model = tiny(**alone)
    before = model.backbone.query_tokens.detach().clone()
    trained(model, "pairs", tmp_path / "1")
    assert not torch.equal(model.backbone.query_tokens, before)
    assert torch.equal(model.backbone.target_query_tokens, model.backbone.query_tokens)
    state = torch.load(tmp_path / "1/step=1.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["backbone.target_query_tokens"], state["backbone.query_tokens"])
    phase2 = tiny(**alone, policy="phase2_composed", init_from=str(tmp_path / "1/step=2.ckpt"))
    assert torch.equal(phase2.backbone.target_query_tokens, model.backbone.query_tokens)
    trained(phase2, "triplets", tmp_path / "2")
    targets = phase2.backbone.target_query_tokens.detach().clone()
    assert not torch.equal(targets, phase2.backbone.query_tokens)
    # a later training that leaves them alone keeps the trained ones
    later = tiny(**alone, policy="phase1_retrieval", init_from=str(tmp_path / "2/step=2.ckpt"))
    assert torch.equal(trained(later, "pairs", tmp_path / "3").backbone.target_query_tokens, targets)


def test_frozen_parts_stay_in_eval_mode(model: UniFashionModule) -> None:
    apply_policy(model, "phase2_composed")
    model.train()
    assert not model.backbone.vision.training
    assert model.caption_head is not None
    assert not model.caption_head.language_model.training
    assert model.backbone.qformer.training


def test_generative_losses_reach_the_qformer_through_frozen_generators(model: UniFashionModule) -> None:
    apply_policy(model, "phase2_composed")
    model.policy = "phase2_composed"
    losses = model.compute_losses(streams()["triplets"])  # type: ignore[arg-type]
    assert {"cir_itc", "cir_caption", "cir_itm", "itg", "q2i"} == set(losses)
    for name in ("itg", "q2i"):
        grad = torch.autograd.grad(losses[name], model.backbone.query_tokens, retain_graph=True)[0]
        assert grad.abs().max() > 0, name


def test_loss_weights_scale_and_switch_off() -> None:
    model = tiny(**{"loss_weights": {"itg": 0.0, "cross": 2.0}})
    assert model.active_families == ["cross", "q2i"]
    with pytest.raises(ValueError, match="loss_weights: unknown loss family"):
        tiny(**{"loss_weights": {"lm": 1.0}})


@pytest.mark.parametrize(
    ("stream", "terms"),
    [("pairs", {"itc", "itm", "itg", "q2i"}), ("triplets", {"cir_itc", "cir_caption", "cir_itm", "itg", "q2i"})],
)
def test_a_step_is_the_plain_sum_of_equations_8_and_13(
    model: UniFashionModule, stream: str, terms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L_cross or L_cir, each of whose terms counts once, + L_ITG + L_q2I."""
    logged: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(model, "policy", "phase1_joint")
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    total = model.eval().training_step({stream: streams()[stream]}, 0)
    assert float(logged.pop("train/loss")) == float(total.detach())
    assert {name.removeprefix(f"train/{stream}/") for name in logged} == terms
    assert float(total.detach()) == pytest.approx(sum(float(loss) for loss in logged.values()), rel=1e-6)


def test_heads_can_be_left_out_and_streams_summed() -> None:
    model = tiny(caption=None, diffusion=None)
    assert model.caption_head is None
    trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    loader = torch.utils.data.DataLoader([streams()], batch_size=None)  # type: ignore[arg-type,list-item]
    before = model.backbone.query_tokens.detach().clone()
    trainer.fit(model, loader)
    assert not torch.equal(before, model.backbone.query_tokens)
    assert {"train/pairs/itc", "train/triplets/cir_itc", "train/loss"} <= set(trainer.callback_metrics)


def test_checkpoint_rebuilds_without_yaml_and_weights_only(tmp_path: Path) -> None:
    model = tiny(caption=None, diffusion=None).eval()
    trainer = L.Trainer(max_steps=0, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = UniFashionModule.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu", weights_only=True).eval()
    with torch.no_grad():
        assert torch.equal(model.encode_text("a red dress"), again.encode_text("a red dress"))
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["policy"] == "phase1_joint"


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 0.0), (torch.float16, 5e-3)])
def test_save_pretrained_and_back(tmp_path: Path, dtype: torch.dtype | None, tolerance: float) -> None:
    model = tiny(diffusion=None).eval()
    again = UniFashionModule.from_pretrained(model.save_pretrained(tmp_path / "m", dtype))
    a, b = model.encode_text(["a red dress"]), again.encode_text(["a red dress"])
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
    assert next(again.parameters()).dtype == torch.float32


def test_some_heads_are_built_alone(tmp_path: Path) -> None:
    model = tiny().eval()
    model.learned = frozenset({"retrieval", "caption"})
    folder = model.save_pretrained(tmp_path / "m")
    alone = UniFashionModule.from_pretrained(folder, heads=("retrieval",))
    assert alone.caption_head is alone.diffusion_head is None
    assert alone.learned == {"retrieval"}
    assert torch.equal(model.encode_text("a red dress"), alone.encode_text("a red dress"))
    with pytest.raises(ValueError, match="unknown head 'captions'"):
        UniFashionModule.from_pretrained(folder, heads=("captions",))


def test_phase2_takes_a_phase1_checkpoint_and_says_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny(diffusion=None)
    source.save_pretrained(tmp_path / "phase1")
    target = tiny(caption=None, diffusion=None)
    load_weights(target, [str(tmp_path / "nothing"), str(tmp_path / "phase1")])
    said = capsys.readouterr().out
    assert "no weights at" in said
    assert "left out: caption_head" in said
    assert torch.equal(source.backbone.query_tokens, target.backbone.query_tokens)
    with pytest.raises(ValueError, match="tensors missing"):
        load_weights(tiny(policy="phase2_composed"), str(tmp_path / "phase1"))
    with pytest.raises(FileNotFoundError, match="expected a .ckpt or .safetensors file"):
        load_weights(target, str(tmp_path / "nothing"))


LEFT_OUT = ["vae", "clip_text"]


def leaving_out(**overrides: object) -> UniFashionModule:
    return tiny(caption=None, **{"leave_out": LEFT_OUT, "policy": "phase2_composed", **overrides})


def test_published_parts_are_left_out_of_checkpoints_and_come_back(tmp_path: Path) -> None:
    model = leaving_out().eval()
    trainer = L.Trainer(max_steps=0, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = set(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"])
    gone = set(model.state_dict()) - stored
    assert {part_of(name) for name in gone} == set(LEFT_OUT)
    assert not {part_of(name) for name in stored} & set(LEFT_OUT)
    folder = model.save_pretrained(tmp_path / "folder")
    again = [
        UniFashionModule.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu", weights_only=True),
        UniFashionModule.from_pretrained(tmp_path / "a.ckpt"),
        UniFashionModule.from_pretrained(folder),
    ]
    for other in again:
        assert all(torch.equal(a, other.state_dict()[name]) for name, a in model.state_dict().items())


def test_a_checkpoint_that_lacks_more_than_the_left_out_parts_is_refused(tmp_path: Path) -> None:
    model = leaving_out()
    checkpoint = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    del checkpoint["state_dict"]["backbone.query_tokens"]
    model.on_load_checkpoint(checkpoint)
    with pytest.raises(RuntimeError, match="query_tokens"):
        model.load_state_dict(checkpoint["state_dict"])


def test_a_source_that_trained_a_left_out_part_is_refused(tmp_path: Path) -> None:
    source = tiny(caption=None)
    with torch.no_grad():
        next(source.diffusion_head.text_encoder.parameters()).add_(1)  # type: ignore[union-attr]
    source.save_pretrained(tmp_path / "trained")
    with pytest.raises(ValueError, match=r"text_encoder.* not the one of the published weights"):
        leaving_out(init_from=str(tmp_path / "trained"))


def test_stages_of_phase_1_are_one_source(tmp_path: Path) -> None:
    first, second = tiny(caption=None, diffusion=None), tiny(retrieval=None, diffusion=None)
    first.save_pretrained(tmp_path / "retrieval")
    second.save_pretrained(tmp_path / "llm")
    both = [str(tmp_path / "retrieval"), str(tmp_path / "llm")]
    joined = tiny(diffusion=None, init_from=[["nowhere", both[0]], both])
    for name, tensor in joined.state_dict().items():
        source = first if name.startswith("retrieval_head.") else second
        assert torch.equal(tensor, source.state_dict()[name])
    with pytest.raises(ValueError, match="tensors missing"):
        tiny(diffusion=None, init_from=both, policy="phase2_composed")


def test_a_stage_begins_the_heads_that_it_trains_and_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny(caption=None, diffusion=None, policy="phase1_retrieval")
    first.save_pretrained(tmp_path / "representation")
    start = {"init_from": str(tmp_path / "representation"), "retrieval": None}
    for policy, head, absent in (("phase1_llm", "caption", "diffusion"), ("phase1_diffusion", "diffusion", "caption")):
        stage = tiny(policy=policy, **{absent: None}, **start)
        assert torch.equal(stage.backbone.query_tokens, first.backbone.query_tokens)
        assert f"trained from where it stands: {head}_head" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"tensors missing \['caption_head"):
        tiny(policy="phase1_diffusion", **start)  # nothing would train the caption head


def test_half_downloaded_folders_and_unknown_names_are_explained(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"format": 1, "model": {}}')
    with pytest.raises(FileNotFoundError, match="half a download"):
        UniFashionModule.from_pretrained(tmp_path / "half")
    (tmp_path / "half" / "weights.bin").write_bytes(b"0")
    with pytest.raises(
        FileNotFoundError, match=r"weights.bin is a file: expected a folder written by save_pretrained, its model.safetensors"
    ):
        UniFashionModule.from_pretrained(tmp_path / "half" / "weights.bin")
    with pytest.raises(FileNotFoundError, match="neither 'tiny', nor a folder"):
        UniFashionModule.from_pretrained("nobody/nothing-of-this-name")


def test_the_tensors_of_a_folder_stand_for_it(tmp_path: Path) -> None:
    whole = tiny(caption=None, diffusion=None)
    whole.save_pretrained(tmp_path / "model")
    found = UniFashionModule.from_pretrained(tmp_path / "model" / "model.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.state_dict().items())


def test_a_model_assembled_by_hand_says_how_to_make_it_saveable(tmp_path: Path) -> None:
    built = tiny(caption=None, diffusion=None)
    by_hand = UniFashionModule(built.backbone, built.retrieval_head)
    assert not by_hand.hparams
    with pytest.raises(ValueError, match="from_config"):
        by_hand.save_pretrained(tmp_path)


@pytest.mark.parametrize("start", [True, False])
def test_a_frozen_tower_keeps_its_batch_statistics_in_training(start: bool, tmp_path: Path) -> None:
    """Lightning trains in the mode it finds: all parts of a model that was just built are in training mode, of a loaded one in eval."""
    module = tiny(policy="phase2_composed", also_train=[])
    module.train(start)
    if start:
        for part in module.modules():
            part.training = True
    before = {k: v.clone() for k, v in module.backbone.vision.state_dict().items() if "running" in k or "batches" in k}
    assert before
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([streams(), streams()], batch_size=None))
    after = module.backbone.vision.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert module.backbone.qformer.training


def test_pairs_triplets_and_try_on_train_together(tmp_path: Path) -> None:
    pixels = tryon_batch().pixels
    batch = {"pairs": pair_batch(pixels=pixels), "triplets": triplet_batch(pixels=pixels), "tryon": tryon_batch()}
    model = opened(editor())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = L.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=tmp_path, callbacks=[LearntAverage(decay=0.5)],
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader([batch, batch], batch_size=None))  # type: ignore[arg-type]
    assert {f"train/{stream}/q2i" for stream in batch} <= set(trainer.callback_metrics)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= model.trainable_names
    assert any(name.startswith("diffusion_head.denoiser.garment.encoder.") for name in moved)


def test_training_starts_from_a_model_without_a_branch(tmp_path: Path) -> None:
    def built(denoiser: dict[str, object]) -> UniFashionModule:
        overrides = {f"diffusion.init_args.denoiser.init_args.{name}": value for name, value in denoiser.items()}
        return UniFashionModule.from_config(
            "tiny.yaml", {"policy": "editing_control", "retrieval": None, "caption": None, **overrides}
        )

    folder = built({}).save_pretrained(tmp_path / "plain")
    model = built({"in_channels": 13, "garment": "branch"})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    load_weights(model, str(folder))
    state, plain = model.state_dict(), UniFashionModule.from_pretrained(folder).state_dict()
    prefix = "diffusion_head.denoiser."
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items() if name != f"{prefix}unet.conv_in.weight")
    for name in ("time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"):
        assert torch.equal(state[f"{prefix}garment.encoder.{name}"], plain[f"{prefix}unet.{name}"])
    assert not state[f"{prefix}unet.conv_in.weight"][:, 4:].any()
    again = UniFashionModule.from_pretrained(model.save_pretrained(tmp_path / "garment"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())


def test_try_on_without_a_diffusion_head_is_refused() -> None:
    model = editor()
    model.diffusion_head = None
    with pytest.raises(TypeError, match="cannot train on a TryOnBatch: try-on needs a diffusion head"):
        model.compute_losses(tryon_batch())


def test_a_model_says_what_it_is_and_not_its_layers(model: UniFashionModule) -> None:
    said = repr(model).splitlines()
    assert said[0] == "UniFashionModule"
    assert len(said) < 25
    assert any(line.split()[:1] == ["encoder"] for line in said)
    assert repr(UniFashionModule.__new__(UniFashionModule)) == "UniFashionModule()"


NAMES = "encode_image encode_text compose caption generate try_on design gallery encoder from_pretrained from_config save_pretrained push_to_hub"


@pytest.mark.parametrize("name", NAMES.split())
def test_help_of_what_users_call_tells_arguments_errors_and_an_example(name: str) -> None:
    told = inspect.getdoc(getattr(UniFashionModule, name)) or ""
    assert ">>> " in told
    if name == "encoder":  # its arguments are those of the class that it gives
        return
    assert "Args:" in told
    assert "Raises:" in told
    said = set(re.findall(r"\w+", told))
    assert set(inspect.signature(getattr(UniFashionModule, name)).parameters) - {"self", "cls", "model"} <= said
