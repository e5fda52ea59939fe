"""What lies over what: overrides in Python as on the command line, models that are replaced with their arguments, options in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main
from unifashion_pl.configs.layers import drop_replaced

HEADS: dict[str, Any] = {"caption": None, "diffusion": None, "init_from": None}
TOWER = "model.backbone.vision"


def tiny(**overrides: Any) -> UniFashionModule:
    return UniFashionModule.from_config("phase1.yaml", {**HEADS, **overrides})


@pytest.mark.parametrize("key", ["optim.qformer_lr", "optim.init_args.qformer_lr"])
def test_settings_inside_a_dataclass(key: str) -> None:
    optim = tiny(**{key: 1e-4}).optim
    assert (optim.qformer_lr, optim.vision_lr, optim.warmup) == (1e-4, 4e-3, 0.1)


def test_unknown_settings_are_refused_by_name() -> None:
    for key in ("optim.qformer_rate", "polic"):
        with pytest.raises(ValueError, match=rf"(?s)phase1\.yaml: .*{key.rpartition('.')[2]}"):
            tiny(**{key: 1})


def test_another_tower_does_not_inherit_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny(**{"backbone.vision.name": "resnet18"}).backbone.vision.width == 512
    assert "timm_kwargs {'channels': [32, 64, 96, 128], 'stem_width': 16} of resnet10t are dropped" in capsys.readouterr().err
    own = {"backbone.vision.name": "resnet18", "backbone.vision.timm_kwargs": {"channels": [8, 8, 8, 16]}}
    assert tiny(**own).backbone.vision.width == 16
    assert tiny(**{"backbone.vision.name": "resnet10t"}).backbone.vision.width == 128
    assert tiny(**{"backbone.vision.timm_kwargs": None}).backbone.vision.width == 512


def test_layers_in_every_form(tmp_path: Path) -> None:
    base = '--config={"model": {"backbone": {"init_args": {"vision": {"init_args": {"name": "a", "timm_kwargs": {"x": 1}}}}}}}'
    (tmp_path / "b.yaml").write_text(
        "\ufeffmodel: {backbone: {init_args: {vision: {init_args: {name: b}}}}}\n", encoding="utf-8"
    )
    reset = ["--config", '{"model": {"backbone": {"vision": {"timm_kwargs": null}}}}']
    for layer in (
        [f"--{TOWER}.name=b"],
        [f"--{TOWER}.name", "b"],
        ["--model.backbone.init_args.vision.init_args.name", "b"],
        ["--model.backbone.init_args.vision", '{"init_args": {"name": "b"}}'],
        ["--config", str(tmp_path / "b.yaml")],
    ):
        assert drop_replaced(["fit", base, *layer, f"--{TOWER}.name=c"]) == ["fit", base, *reset, *layer, f"--{TOWER}.name=c"]
    for layer in (
        [f"--{TOWER}.name=a"],
        ["--model.backbone=null", f"--{TOWER}.name=b"],
        ["--config"],
    ):
        assert drop_replaced([base, *layer]) == [base, *layer]


def test_an_llm_that_is_replaced() -> None:
    base = (
        '--config={"model": {"caption": {"init_args": {"language_model": {"source": "tiny", "config": {"hidden_size": 8}}}}}}'
    )
    assert drop_replaced([base, "--model.caption.language_model.source", "mine"])[1:3] == [
        "--config",
        '{"model": {"caption": {"language_model": {"config": null}}}}',
    ]


@pytest.mark.parametrize(
    "args",
    [
        ["fit", "--config", "phase1.yaml", "--model.polic", "x"],
        ["doctor", "--conf", "tiny.yaml"],
        ["fit", "--conf", "tiny.yaml"],
    ],
)
def test_options_are_named_in_full(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert "unrecognized arguments: --" in capsys.readouterr().err


def test_a_policy_that_is_none_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "phase1.yaml", "--model.policy", "phase1"])
    assert stopped.value.code == 2
    assert "unknown freeze policy 'phase1' (did you mean phase1_llm" in capsys.readouterr().err


def test_towers_that_timm_cannot_build_are_told_why() -> None:
    with pytest.raises(ValueError, match=r"unknown timm model 'resnt18' \(did you mean resnet18 or"):
        tiny(**{"backbone.vision.name": "resnt18"})
    with pytest.raises(ValueError, match="timm cannot build resnet18 with timm_kwargs.*depth"):
        tiny(**{"backbone.vision.name": "resnet18", "backbone.vision.timm_kwargs": {"depth": 3}})
