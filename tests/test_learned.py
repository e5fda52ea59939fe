"""What a model has learned: written at training, kept over stages, read from older files, and refused where it is lacking."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from small import images, pair_batch, triplet_batch, tryon_batch
from torch.utils.data import DataLoader

from unifashion_pl import UniFashionModule, learned
from unifashion_pl.data.samples import TrainBatch
from unifashion_pl.gallery import Gallery
from unifashion_pl.inference import compose
from unifashion_pl.tasks.editing import edit_batch

SMALL: dict[str, Any] = {"diffusion": None, "caption": None, "policy": "phase1_retrieval", "also_train": []}


def model(**changes: Any) -> UniFashionModule:
    return UniFashionModule.from_config("phase1.yaml", {**SMALL, **changes})


def pairs() -> TrainBatch:
    return pair_batch(images=images(4, 64))


def triplets() -> TrainBatch:
    return triplet_batch(references=images(4, 64), targets=images(4, 64, 2))


def fit(module: UniFashionModule, folder: Path, **streams: TrainBatch) -> Path:
    """One step on each stream; returns the checkpoint."""
    loader = DataLoader([streams], batch_size=None, collate_fn=lambda x: x)  # type: ignore[arg-type]
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir=folder)  # fmt: skip
    trainer.fit(module, loader)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_steps_are_noted_and_stages_add_up(tmp_path: Path) -> None:
    first = model()
    assert first.learned == frozenset()
    ckpt = fit(first, tmp_path, pairs=pairs())
    assert first.learned == {"retrieval"}
    assert torch.load(ckpt, weights_only=True)[learned.KEY] == ["retrieval"]
    second = model(policy="phase2_composed", init_from=str(ckpt))
    assert second.learned == {"retrieval"}
    again = fit(second, tmp_path, triplets=triplets())
    for source in (again, second.save_pretrained(tmp_path / "saved")):
        assert UniFashionModule.from_pretrained(source).learned == {"retrieval", "composed"}
    assert "Trained for: retrieval, composed." in (tmp_path / "saved" / "README.md").read_text()


def test_losses_alone_teach_nothing() -> None:
    fresh = model()
    fresh.compute_losses(pairs())
    assert fresh.learned == frozenset()


@pytest.mark.parametrize(
    ("batch", "families", "tasks"),
    [
        (pair_batch(), ["cross", "itg", "q2i"], {"retrieval", "caption", "generation"}),
        (pair_batch(captions=[""] * 4), ["itg"], set()),
        (triplet_batch(), ["cross", "itg", "q2i"], {"composed", "composed generation"}),
        (edit_batch(tryon_batch(), ["tryon"] * 4), ["q2i"], {"try-on", "design"}),
    ],
)
def test_batch_and_losses_say_what_is_taught(batch: TrainBatch, families: list[Any], tasks: set[str]) -> None:
    assert learned.taught(batch, families, {"tryon": 0.5, "text": 0.5, "design": 0.0}) == tasks


def test_composed_search_without_its_training_is_refused_with_the_cure(tmp_path: Path) -> None:
    trained = model()
    fit(trained, tmp_path, pairs=pairs())
    pictures = list(images(3, 64))
    gallery = Gallery(trained).add(pictures)
    with pytest.raises(
        RuntimeError, match=r"has not learned to search by an image and a text .*trained for retrieval.*phase2.yaml"
    ):
        gallery.search(text="longer", image=pictures[0])
    session = gallery.session(image=pictures[0])
    before = session.hits
    with pytest.raises(RuntimeError, match="search by the text or by the image alone"):
        session.refine("longer")
    assert session.hits == before
    assert len(gallery.search(text="red")) == len(gallery.search(image=pictures[0])) == 3
    trained.learned = None
    assert compose(trained, pictures[0], "longer").shape == (1, 64)


def test_weights_loaded_by_hand_are_not_judged() -> None:
    fresh = model()
    fresh.load_state_dict(fresh.state_dict())
    assert fresh.learned is None
    assert learned.lacks(fresh, "composed") == ""


HEADS = {"retrieval": {}, "caption": {}, "diffusion": None}


@pytest.mark.parametrize(
    ("section", "streams", "tasks"),
    [
        ({"policy": "phase1_joint", **HEADS}, None, {"retrieval", "caption"}),
        ({"policy": "phase1_joint", **HEADS}, ["pairs", "triplets"], {"retrieval", "caption", "composed"}),
        ({"policy": "phase2_composed", **HEADS}, ["pairs"], {"retrieval", "caption"}),
        ({"policy": "phase2_composed", **HEADS}, None, {"retrieval", "caption", "composed"}),
        ({"policy": "editing_all", **HEADS}, ["tryon"], None),
        ({"policy": "somebody's own", **HEADS}, None, None),
    ],
)
def test_older_files_are_read_by_their_policy(
    section: dict[str, Any], streams: list[str] | None, tasks: set[str] | None
) -> None:
    content = {"hyper_parameters": {"backbone": {}, **section}} | (
        {} if streams is None else {"unifashion_streams": {name: {} for name in streams}}
    )
    assert learned.of_checkpoint(content) == tasks
    if streams is None:
        assert learned.of_config({"model": {"backbone": {}, **section}}) == tasks


def test_what_older_models_may_have_learned_of_persons_is_not_refused() -> None:
    section = {"policy": "phase2_composed", "backbone": {}, **HEADS, "diffusion": {}}
    known = learned.of_config({"model": section})
    for channels, persons in ((13, {"try-on", "design"}), (4, set())):
        older = SimpleNamespace(diffusion_head=SimpleNamespace(denoiser=SimpleNamespace(in_channels=channels)))
        learned.give(older, known)
        assert older.learned == {"generation", "composed generation"} | persons


def test_files_of_others_say_nothing() -> None:
    assert learned.of_config({"model_type": "bert"}) is None
    assert learned.of_checkpoint({"state_dict": {}}) is None
    with pytest.raises(ValueError, match="expected a list of tasks"):
        learned.of_config({"learned": "composed"})


def test_imports_know_what_their_authors_trained() -> None:
    assert learned.of_import("blip2-lavis", []) == {"retrieval"}
    everything = learned.of_import("unifashion", ["caption_head.adapter", "diffusion_head.adapter"])
    assert everything == {"retrieval", "composed"}
    assert learned.of_import("sd", []) == frozenset()


def test_one_source_that_says_nothing_leaves_all_unknown() -> None:
    assert learned.joined([frozenset({"caption"}), frozenset({"retrieval"})]) == {"caption", "retrieval"}
    assert learned.joined([frozenset({"caption"}), None]) is None


def test_the_shipped_model_knows_everything() -> None:
    from unifashion_pl.weights.checkpoint import tiny_folder

    content = json.loads((tiny_folder() / "config.json").read_text())
    assert learned.of_config(content) == frozenset(learned.TASKS)
