"""The smoke test of the paper's size, at toy sizes: downloads, imports, stages and a picture, as `make paper-smoke` runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import paper_files
import paper_record
import paper_smoke
import peers
import pytest
import torch
from paper_parts import TRAININGS
from torch import nn

from unifashion_pl.freezing import POLICIES
from unifashion_pl.parameters import TRAININGS as COUNTED


def smoke(out: Path, stages: str) -> dict[str, dict[str, Any]]:
    here = str(Path(paper_smoke.__file__).resolve())
    env = paper_smoke.Smoke(out, out / "work", True, True).environ
    done = subprocess.run(
        [sys.executable, here, "--out", str(out), "--scale", "tiny", "--together", "--stages", stages],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (out / "work").exists()
    return {row["name"]: row for row in json.loads((out / "paper_smoke.json").read_text())["rows"]}


def test_the_chain_to_a_picture_runs_at_toy_sizes(tmp_path: Path) -> None:
    rows = smoke(tmp_path, "representation/try-on/try_on")
    assert [name for name in rows if not name.startswith("import")] == ["representation", "try-on", "try_on"]
    first, second = rows["representation"], rows["try-on"]
    assert {"train/pairs/itc", "train/pairs/itm"} <= first["losses"].keys()
    assert first["rows"] == {"pairs": 4}
    trained = {part for part, row in first["parts"].items() if row["norm"]}
    assert trained == {*POLICIES["phase1_retrieval"].trains} & first["parts"].keys()
    assert first["parts"]["vision"]["trains"] == 0 < first["parts"]["vision"]["frozen"]
    assert {part for part, row in second["parts"].items() if row["norm"]} == {"garment", "tsa_diffusion", "unet"}
    assert second["parts"]["unet"]["trains"] == 2  # the first convolution
    assert (tmp_path / "try_on.png").is_file()
    table = (tmp_path / "paper_smoke.md").read_text()
    assert "| representation | pairs 4 |" in table
    assert "| garment | – |" in table


@pytest.mark.slow
def test_every_stage_runs_at_toy_sizes(tmp_path: Path) -> None:
    names = [stage.name for stage in paper_smoke.STAGES]
    rows = smoke(tmp_path, "/".join(names))
    assert {name for name in rows if not name.startswith("import")} == {*names}
    assert not any(row["failed"] or row.get("wrong") for row in rows.values())


def test_the_stages_are_the_papers_and_their_overlays_are_counted() -> None:
    assert {stage.case for stage in paper_smoke.STAGES} == {case.name for case in TRAININGS if "commercial" not in case.name}
    assert {case.configs for case in TRAININGS} == {training.configs for training in COUNTED}


def test_wrong_gradients_are_named() -> None:
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"ln_vision": nn.Linear(2, 2), "vision": nn.Linear(2, 2)})})
    model.requires_grad_(True)
    model["backbone"]["vision"].weight.requires_grad_(False)  # type: ignore[index]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model["backbone"]["ln_vision"].bias.grad = torch.tensor([1.0, float("nan")])  # type: ignore[index]
    model["backbone"]["vision"].bias.grad = None  # type: ignore[index]
    parts, wrong = paper_record.gradients(model)
    assert sorted(wrong) == [
        "backbone.ln_vision.bias has a gradient that is not finite",
        "backbone.vision.bias trains and has no gradient",
        "backbone.vision.weight is frozen and has a gradient",
        "vision trains and all its gradients are zero",
    ]
    assert parts["encoder"] | {"norm": 0} == {"trains": 2, "frozen": 0, "finite": 1, "norm": 0}


def test_sizes_are_the_published_ones() -> None:
    sizes = paper_files.paper_sizes()
    shapes = peers.blip2(full_size=True).state_dict()
    assert shapes["vision_model.embeddings.class_embedding"].shape[-1] == sizes.tower["embed_dim"]
    assert len(shapes["embeddings.word_embeddings.weight"]) == sizes.qformer["vocab_size"]
    assert shapes["qformer.encoder.layer.11.intermediate_query.dense.weight"].shape == (3072, sizes.qformer["hidden_size"])
    assert sizes.llama["num_hidden_layers"] == 32


def test_one_tensor_of_two_names_is_filled_once() -> None:
    with torch.device("meta"):
        shape, bias = torch.empty(300, 400), torch.empty(400)
    made = paper_files.Filler(torch.float16)({"a": shape, "b": shape, "c.weight": bias, "c.bias": bias.clone()})
    assert made["a"] is made["b"]
    assert made["a"].dtype == torch.float16
    assert float(made["a"].float().std()) == pytest.approx(1 / (3 * 400) ** 0.5, rel=0.02)
    assert made["c.weight"].eq(1).all()
    assert not made["c.bias"].any()
