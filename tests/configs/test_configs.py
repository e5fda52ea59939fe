"""Configs by bare name, each readable alone, and what several of them say together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unifashion_pl.cli import main
from unifashion_pl.configs import SHIPPED, merged, read_config, resolve_config

#: Shipped configs that are trainings by themselves; the others lie over one.
ALONE = ("phase1", "phase2", "tryon", "design", "small", "small-composed", "fashion", *(f"ablations/{r}-phase{i}" for r in ("base", "llm", "full") for i in (1, 2)))  # fmt: skip
OVERLAYS = (
    *("tiny", "tiny_edits", "commercial", "ddp", "ema", "fsdp", "gpu", "released", "small-llm", "small-composed-llm"),
    *("paper", "paper-design", "paper-diffusion", "paper-llm", "paper-representation", "paper-tryon"),
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(name: str) -> dict[str, Any]:
    section: dict[str, Any] = read_config(f"{name}.yaml")["model"]
    return section


def test_a_bare_name_is_looked_up_here_first_then_among_the_shipped() -> None:
    assert Path(resolve_config("phase1.yaml")).parent.name == "configs"
    Path("phase1.yaml").write_text("model: {}\n")
    assert resolve_config("phase1.yaml") == "phase1.yaml"
    assert resolve_config('{"model": {}}') == '{"model": {}}'
    with pytest.raises(SystemExit, match=r"no config 'phase9.yaml' in .* nor among the shipped ones: .*phase1\.yaml"):
        resolve_config("phase9.yaml")


def test_every_shipped_config_says_its_command_in_its_first_lines_and_lies_over_nothing_unsaid() -> None:
    shipped = {path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")}
    assert shipped == {*ALONE, *OVERLAYS}
    for name in OVERLAYS:
        head = [line for line in (SHIPPED / f"{name}.yaml").read_text("utf-8").splitlines() if line.startswith("#")]
        assert any("unifashion fit --config " in line and f"--config {name}.yaml" in line for line in head), name
    for name in ALONE:
        head = (SHIPPED / f"{name}.yaml").read_text("utf-8").splitlines()[:6]
        assert any(line.startswith(f"#   unifashion fit --config {name}.yaml") for line in head), name
        config = read_config(f"{name}.yaml")
        assert {"trainer", "model", "data"} <= set(config)
        vision = config["model"]["backbone"]["init_args"]["vision"]["init_args"]
        assert vision.get("name") or vision["source"]


@pytest.mark.parametrize(
    "name", ["phase1", "phase2", *(name for name in ALONE if "/" in name), "tryon", "design", "tiny_edits"]
)
def test_the_tiny_model_is_the_same_wherever_it_is_written(name: str) -> None:
    tiny, edits, found = model("tiny"), model("tiny_edits"), model(name)
    for part in ("backbone", "retrieval", "caption"):
        assert found[part] == tiny[part] or (found[part] is None and part != "backbone"), part
    if found["diffusion"] is not None:
        own = found["diffusion"]["init_args"]
        wanted = (edits if "edit_size" in own else tiny)["diffusion"]["init_args"]
        assert {key: own[key] for key in wanted if key != "vae"} == {key: wanted[key] for key in wanted if key != "vae"}
        assert {**own["vae"]["init_args"], "cache": 0} == {**wanted["vae"]["init_args"], "cache": 0}
        assert set(own) - set(wanted) <= {"snr_gamma", "noise_offset", "editing"}


#: Settings of the paper's overlays that are numbers of somebody.
SOURCED = re.compile(
    r"^ *(max_epochs: \d|max_steps: \d|(triplet_)?batch_size: |precision: |gradient_clip_val: |init_args: {warmup|warmup: |val_overlap: |"
    r"init_args: {(batch_size|sampler|hidden_size)|lora: |size: |pixel_size: \[|max_samples: |drop_queries: |per_caption: |num_queries: |"
    r"max_text_tokens: |qformer: |llm: llm|diffusion: diffusion|policy: editing|pair_shares: |epoch_of: )"
)


def test_each_number_of_the_papers_overlays_names_its_source() -> None:
    """On its line or the one above."""
    bare, seen = [], 0
    for path in SHIPPED.glob("paper*.yaml"):
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if SOURCED.match(line):
                seen += 1
                said = line.partition("#")[2] or lines[number - 1].partition("#")[2]
                if not re.search(r"App\. B|§\d|Table \d|Eqs?\. \d|released|ours|paper", said):
                    bare.append(f"{path.name}:{number + 1}: {line.strip()}")
    assert bare == []
    assert seen > 30


def test_what_the_configs_of_one_family_share_is_written_alike() -> None:
    for phase in ("phase1", "phase2"):
        bare = read_config(f"{phase}.yaml")
        for recipe in ("base", "llm", "full"):
            found = read_config(f"ablations/{recipe}-{phase}.yaml")
            folder = f"runs/{recipe}"
            assert found["trainer"].pop("logger")["init_args"] == {"save_dir": folder, "name": phase, "version": ""}
            assert found["trainer"].pop("callbacks")[0]["init_args"]["dirpath"] == f"{folder}/{phase}/checkpoints"
            left = {key: value for key, value in bare["trainer"].items() if key not in ("logger", "callbacks")}
            assert (found["trainer"], found["data"], found["model"]["optim"]) == (left, bare["data"], bare["model"]["optim"])
            assert found["model"].get("init_from") == (f"{folder}/phase1" if phase == "phase2" else None)
    tryon, design = read_config("tryon.yaml"), read_config("design.yaml")
    assert tryon["data"] == design["data"]
    for config in (tryon, design):
        editing = config["model"]["diffusion"]["init_args"].pop("editing")["init_args"]
        del config["model"]["init_from"], editing["tasks"], editing["flow_weight"], editing["shape_weight"]
        config["model"]["editing"] = editing
    assert tryon["model"] == design["model"]


def test_edits_differ_from_the_tiny_model_by_what_reads_persons() -> None:
    tiny, edits = (model(name)["diffusion"]["init_args"] for name in ("tiny", "tiny_edits"))
    assert {key for key in edits if edits[key] != tiny.get(key)} == {"edit_size", "denoiser"}
    assert edits["denoiser"]["init_args"].items() >= tiny["denoiser"]["init_args"].items()


@pytest.mark.parametrize(
    ("head", "line"),
    [("\ufeff# extends: tiny.yaml\r\n", 1), ("# mine\n\n# extends: tiny.yaml\n", 3), ("#extends:  tiny.yaml \n", 1)],
)
def test_a_config_that_extends_another_in_a_comment_loses_nothing_silently(head: str, line: int) -> None:
    Path("mine.yaml").write_text(f"{head}trainer: {{max_epochs: 2}}\n", "utf-8", newline="")
    cure = rf"mine.yaml:{line}: .* Delete `# ?extends: .*`, .* in this order: --config tiny.yaml --config mine.yaml"
    with pytest.raises(ValueError, match=cure):
        resolve_config("mine.yaml")
    Path("mine.yaml").write_text("trainer: {max_epochs: 2}\n# extends: tiny.yaml\n")
    assert resolve_config("mine.yaml") == "mine.yaml"


def test_every_command_that_reads_configs_says_how_to_name_both(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("# extends: phase1.yaml\nmodel: {caption: null}\n")
    for command in ("fit", "test", "doctor", "parameters"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--config", "mine.yaml"])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"unifashion {command}: mine.yaml:1: ")
        assert said.endswith("--config phase1.yaml --config mine.yaml\n")


def test_the_cure_names_the_file_that_was_extended() -> None:
    """Beside the config, in the current folder, or shipped; never the config itself."""
    Path("conf").mkdir()
    Path("conf/base.yaml").write_text("trainer: {max_epochs: 3}\n")
    Path("conf/mine.yaml").write_text("# extends: base.yaml\n")
    Path("conf/phase1.yaml").write_text("# extends: phase1.yaml\n")
    Path("phase1.yaml").write_text("# extends: phase1.yaml\n")
    for name, below in (
        ("conf/mine.yaml", "conf/base.yaml"),
        ("conf/phase1.yaml", "phase1.yaml"),
        ("phase1.yaml", str(SHIPPED / "phase1.yaml")),
    ):
        with pytest.raises(ValueError, match=f"--config {below} --config {name}$"):
            resolve_config(name)


def test_files_that_are_no_text_or_no_settings_are_refused() -> None:
    Path("mine.yaml").write_bytes("# mine\n".encode("utf-16"))
    with pytest.raises(ValueError, match="mine.yaml is not UTF-8 text: it is UTF-16"):
        resolve_config("mine.yaml")
    Path("mine.yaml").write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="mine.yaml is not a config: "):
        read_config("mine.yaml")
    Path("mine.yaml").write_text("# nothing\n")
    assert read_config("mine.yaml") == {}


def test_configs_are_laid_over_each_other_as_in_training() -> None:
    found = merged(["tryon.yaml", "paper.yaml", "paper-tryon.yaml"])
    assert found["data"]["class_path"].endswith("VitonHDDataModule")
    assert "pairs" not in found["data"]["init_args"]  # another class takes no arguments over
    assert found["model"]["retrieval"] is None
    assert found["model"]["diffusion"]["init_args"]["denoiser"]["init_args"]["source"] == "weights/pbe"
    assert merged(["phase1.yaml"]) == yaml.safe_load((SHIPPED / "phase1.yaml").read_text("utf-8"))
