"""docs/extending.md: its files are written into an empty folder, its programs and commands run, in the order of the page."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main

PAGE = Path(__file__).parents[1] / "docs/extending.md"
STEP = re.compile(
    r"^```(?:python|yaml)\n(?P<block>.*?)^```$|^    (?P<command>(?:unifashion|python) [^\n]*)$", re.MULTILINE | re.DOTALL
)
NAMED = re.compile(r"# (\S+\.(?:py|yaml))\n")


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> (kind, text) of its files, programs and commands."""
    found = {}
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        steps = STEP.finditer(part)
        found[part.partition("\n")[0]] = [("command", m["command"]) if m["command"] else ("block", m["block"]) for m in steps]
    return found


def run(kind: str, text: str) -> None:
    if kind == "block" and (name := NAMED.match(text)):
        Path(name[1]).write_text(text)
    elif kind == "block":
        exec(compile(text, str(PAGE), "exec"), {"__name__": "of the page"})
    elif text.startswith("unifashion "):
        main([*shlex.split(text)[1:], "--trainer.accelerator=cpu"])
    else:
        sys.argv = [*shlex.split(text)[1:], "--trainer.accelerator=cpu"]
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    own = {
        name[:-3] for steps in sections().values() for _, text in steps for name in NAMED.findall(text) if name.endswith(".py")
    }
    for name in own:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


#: Of other sections, what a section needs.
FILES = [step for steps in sections().values() for step in steps if step[0] == "block" and NAMED.match(step[1])]


@pytest.mark.parametrize("heading", sections())
def test_a_section_of_the_page_does_what_it_says(heading: str, folder: Path) -> None:
    for step in (*FILES, *sections()[heading]):
        run(*step)
    if heading == "Optimiser and schedule":
        saved = UniFashionModule.from_pretrained(
            folder / "runs/phase1/checkpoints/last.ckpt"
        )  # nobody has to be trusted for it
        assert (saved.optim.optimizer, saved.optim.scheduler, saved.optim.weight_decay) == (None, None, 0.02)
    if heading != "A head beside the three":
        return
    assert "heel(classes=3)" in (folder / "runs/phase1/test/results.json").read_text()
    assert len((folder / "runs/phase1/predict/heels.jsonl").read_text().splitlines()) == 12
    curves = (folder / "runs/phase1/metrics.csv").read_text()
    assert "train/pairs/heel/entropy" in curves
    assert "val/shoes/heel/accuracy" in curves
    last = folder / "runs/phase1/checkpoints/last.ckpt"
    with pytest.raises(ValueError, match="names heels"):
        UniFashionModule.from_pretrained(last)
    model = UniFashionModule.from_pretrained(last, trust_remote_code=True)
    assert model.further == ("heel",)
    without = UniFashionModule.from_pretrained(last, heads=["retrieval"], trust_remote_code=True)
    assert without.further == ()


def test_a_policy_alone_decides_what_trains_beside_a_further_head(folder: Path) -> None:
    for step in FILES:
        run(*step)
    configs = ["phase1.yaml", "shoes.yaml", "heels.yaml"]
    alone = UniFashionModule.from_config(configs, {"policy": "phase1_adapters", "also_train": []})
    assert {name.split(".")[0] for name in alone.trainable_names} == {"heel_head"}
    frozen = UniFashionModule.from_config(configs, {"loss_weights": {"heel": 0}})
    assert not any(name.startswith("heel_head") for name in frozen.trainable_names)
    for name in ("lora", "retrieval", "a b"):
        with pytest.raises(ValueError, match="is taken or no name"):
            UniFashionModule(alone.backbone, further={name: alone.heel_head})
    before = UniFashionModule.from_config(["phase1.yaml", "shoes.yaml"])
    before.save_pretrained(folder / "before")
    begun = UniFashionModule.from_config(configs, {"init_from": str(folder / "before")})
    assert begun.active_families == ["cross", "heel"]
