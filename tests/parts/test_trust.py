"""No code runs because a file that came with weights names it."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from jsonargparse._common import parsing_settings
from sourced import write_ckpt
from unifashion_pl.datamodules import MultiTaskDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import VisionTower
from unifashion_pl.cli import main
from unifashion_pl.cli.training import UniFashionCLI
from unifashion_pl.parts.trust import UntrustedCode, library_only, local
from unifashion_pl.tasks import RetrievalModule
from unifashion_pl.weights.checkpoint import tiny_folder

#: A user's own part in the current folder.
OWN = """
from pathlib import Path
Path({mark!r}).touch()
from unifashion_pl.backbone import VisionTower
from unifashion_pl.tasks import RetrievalModule
class Tower(VisionTower):
    pass
class Head(RetrievalModule):
    pass
"""


class Calls:
    """Takes a callable, as a part of a user's might."""

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self.function = function


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that hostile code would make; the current folder holds a module of its user."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_part_of_a_user.py").write_text(OWN.format(mark=str(tmp_path / "it-ran")))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_part_of_a_user", None)
    return tmp_path / "it-ran"


def hostile(mark: Path) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch {mark}"}}


def planted(path: str, value: Any) -> dict[str, Any]:
    """The tiny model's section without its large heads, with a value at a dotted place."""
    section = copy.deepcopy(json.loads((tiny_folder() / "config.json").read_text())["model"])
    section |= {"caption": None, "diffusion": None}
    node, keys = section, path.split(".")
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return section


VISION = "backbone.init_args.vision"
PLACES = {
    "the model's part": ("backbone", hostile),
    "a part's part": (VISION, hostile),
    "a part's part as text": (VISION, lambda mark: json.dumps(hostile(mark))),
    "keyword arguments": (f"{VISION}.init_args.timm_kwargs", hostile),
    "within keyword arguments": (f"{VISION}.init_args.timm_kwargs.note", hostile),
    "a list in keyword arguments": (f"{VISION}.init_args.timm_kwargs.note", lambda mark: [{"x": [hostile(mark)]}]),
    "a module in the current folder": (f"{VISION}.class_path", lambda mark: "own_part_of_a_user.Tower"),
    "what this library imports": ("backbone.class_path", lambda mark: "unifashion_pl.files.os.system"),
    "a loss's weight": ("loss_weights", lambda mark: {"cross": hostile(mark)}),
    "a checkpoint of timm's": (f"{VISION}.init_args.timm_kwargs.checkpoint_path", lambda mark: "x.pth"),
}


def folder_of(section: dict[str, Any], folder: Path) -> Path:
    shutil.copytree(tiny_folder(), folder)
    (folder / "config.json").write_text(json.dumps({"format": 1, "model": section}))
    return folder


def ckpt_of(section: dict[str, Any], path: Path, **more: Any) -> Path:
    torch.save({"state_dict": {}, "hyper_parameters": {**section, **more}, "pytorch-lightning_version": L.__version__}, path)
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["folder", "ckpt", "load_from_checkpoint"])
def test_nothing_that_a_models_config_names_is_called(place: str, form: str, mark: Path, tmp_path: Path) -> None:
    section = planted(PLACES[place][0], PLACES[place][1](mark))
    path = folder_of(section, tmp_path / "model") if form == "folder" else ckpt_of(section, tmp_path / "a.ckpt")
    load = UniFashionModule.load_from_checkpoint if form == "load_from_checkpoint" else UniFashionModule.from_pretrained
    with pytest.raises(ValueError, match=str(path)):
        load(path)
    assert not mark.exists()


def test_the_message_names_file_class_and_switch(mark: Path, tmp_path: Path) -> None:
    folder = folder_of(planted(f"{VISION}.class_path", "own_part_of_a_user.Tower"), tmp_path / "model")
    with pytest.raises(
        UntrustedCode, match=r"model names own_part_of_a_user.Tower.*trust_remote_code=True.*--trust_remote_code"
    ):
        UniFashionModule.from_pretrained(folder)


def test_a_users_own_classes_load_with_the_switch(mark: Path, tmp_path: Path) -> None:
    model = UniFashionModule.from_config("phase1.yaml", {"caption": None, "diffusion": None, "policy": "phase1_retrieval"})
    folder, path = model.save_pretrained(tmp_path / "model"), write_ckpt(model, tmp_path / "a.ckpt")
    text = (folder / "config.json").read_text().replace("unifashion_pl.backbone.VisionTower", "own_part_of_a_user.Tower")
    (folder / "config.json").write_text(text)
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["backbone"]["init_args"]["vision"]["class_path"] = "own_part_of_a_user.Tower"
    torch.save(content, path)
    for source in (folder, path):
        with pytest.raises(UntrustedCode):
            UniFashionModule.from_pretrained(source)
    assert not mark.exists()
    for source in (folder, path):
        again = UniFashionModule.from_pretrained(source, trust_remote_code=True)
        assert type(again.backbone.vision).__name__ == "Tower"
    assert isinstance(UniFashionModule.load_from_checkpoint(path, trust_remote_code=True).backbone.vision, VisionTower)
    assert mark.exists()


@pytest.mark.parametrize("instantiator", ["os.system", "own_part_of_a_user.Tower"])
def test_a_checkpoint_does_not_choose_what_instantiates_it(instantiator: str, mark: Path, tmp_path: Path) -> None:
    path = ckpt_of(
        planted("policy", "phase1_retrieval"), tmp_path / "a.ckpt", _instantiator=instantiator, _class_path=instantiator
    )
    for load in (UniFashionModule.from_pretrained, UniFashionModule.load_from_checkpoint):
        with pytest.raises(ValueError, match="a.ckpt"):
            load(path)
    assert not mark.exists()


@pytest.mark.parametrize("command", ["test", "fit"])
def test_ckpt_path_names_nothing_that_is_called(
    command: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ckpt_of(planted(f"{VISION}.class_path", "own_part_of_a_user.Tower"), tmp_path / "a.ckpt", _instantiator="os.system")
    with pytest.raises(SystemExit) as ended:
        main([command, "--config", "tiny.yaml", "--ckpt_path", str(path)])
    assert ended.value.code == 2
    assert "own_part_of_a_user.Tower" in capsys.readouterr().err
    assert not mark.exists()


def test_a_file_with_the_name_of_a_class_is_not_read(mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "unifashion_pl.tasks.RetrievalModule"
    (tmp_path / name).write_text(json.dumps({"class_path": "own_part_of_a_user.Head"}))
    path = ckpt_of(planted("retrieval", name), tmp_path / "a.ckpt")
    built = []

    def build(cli: UniFashionCLI) -> None:
        built.append(cli.config.test.model.retrieval.class_path)
        raise ValueError("far enough")

    monkeypatch.setattr(UniFashionCLI, "instantiate_classes", build)
    with pytest.raises(ValueError, match="far enough"):
        main(
            ["test", "--config", "tiny.yaml", "--model.caption", "null", "--model.diffusion", "null", "--ckpt_path", str(path)]
        )
    assert built == [name]
    assert not mark.exists()


def test_heads_and_data_modules_load_no_other_classes_either(mark: Path, tmp_path: Path) -> None:
    made = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    own = {"class_path": "own_part_of_a_user.Tower", "init_args": {"name": "resnet10t", "image_size": 32}}
    backbone = planted("policy", "")["backbone"]
    backbone["init_args"]["vision"] = own
    path = ckpt_of({"backbone": backbone}, tmp_path / "head.ckpt", **made)
    with pytest.raises(UntrustedCode, match="head.ckpt names own_part_of_a_user"):
        RetrievalModule.load_from_checkpoint(path)
    path = tmp_path / "data.ckpt"
    torch.save({"datamodule_hyper_parameters": {**made, "pairs": own}, "pytorch-lightning_version": L.__version__}, path)
    with pytest.raises(UntrustedCode, match="data.ckpt names own_part_of_a_user"):
        MultiTaskDataModule.load_from_checkpoint(path)
    assert not mark.exists()
    with pytest.raises(RuntimeError, match="Missing key"):  # it was built; this file has no tensors for it
        RetrievalModule.load_from_checkpoint(tmp_path / "head.ckpt", trust_remote_code=True)
    assert mark.exists()


def test_an_address_is_no_ckpt_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["test", "--config", "tiny.yaml", "--ckpt_path", "http://127.0.0.1:9/a.ckpt"])
    assert ended.value.code == 2
    assert "download the checkpoint" in capsys.readouterr().err
    with pytest.raises(ValueError, match="download the checkpoint"):
        UniFashionModule.load_from_checkpoint("http://127.0.0.1:9/a.ckpt")


def test_init_from_reads_tensors_only(mark: Path, tmp_path: Path) -> None:
    folder = folder_of(planted(f"{VISION}.class_path", "own_part_of_a_user.Tower"), tmp_path / "model")
    only = {"caption": None, "diffusion": None, "policy": "phase1_retrieval", "init_from": str(folder)}
    UniFashionModule.from_config("phase1.yaml", only)
    assert not mark.exists()


def test_keyword_arguments_of_a_users_own_yaml_are_data_too(mark: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(json.dumps({"model": planted(f"{VISION}.init_args.timm_kwargs.note", hostile(mark))}))
    with pytest.raises(Exception, match="note"):
        UniFashionModule.from_config(tmp_path / "own.yaml")
    assert not mark.exists()


def test_callables_by_name_are_refused_inside_and_not_outside(mark: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Calls, "own")
    before = copy.deepcopy(parsing_settings)
    with pytest.raises(UntrustedCode, match=r"a file names math\.sqrt"), library_only("a file", trusted=False):
        parser.parse_object({"own": {"function": "math.sqrt"}})
    assert parsing_settings == before
    for trusted in (True, False):  # with the switch, and after a block without it
        with library_only("a file", trusted):
            pass
        assert parser.parse_object({"own": {"function": "math.sqrt"}}).own.function.__name__ == "sqrt"


def test_addresses_and_folders_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "sharded").mkdir()
    with pytest.raises(UntrustedCode, match="sharded is a folder.*trust_remote_code"):
        local(tmp_path / "sharded")
    assert local(tmp_path / "sharded", trusted=True) == tmp_path / "sharded"
    for trusted in (False, True):
        with pytest.raises(ValueError, match="is an address: download the checkpoint"):
            local("https://example.org/x.ckpt", trusted)
    assert local(tmp_path / "x.ckpt") == tmp_path / "x.ckpt"
