"""Saved models load anywhere, without the files that they were started from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from small import CLIP_TEXT, UNET, VAE, images
from sourced import sourced_model, write_ckpt
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaForCausalLM

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main
from unifashion_pl.cli.training import UniFashionCLI
from unifashion_pl.parts.rebuild import blueprints, check_blueprints, load_model, load_part


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[UniFashionModule, Path]:
    """A model and where it lies as ``folder`` and ``a.ckpt``; its sources are gone."""
    root = tmp_path_factory.mktemp("saved")
    sources = root / "sources"
    sources.mkdir()
    model = sourced_model(sources)
    model.save_pretrained(root / "folder")
    write_ckpt(model, root / "a.ckpt")
    shutil.rmtree(sources)
    return model, root


@pytest.mark.parametrize("form", ["folder", "a.ckpt", "saved again", "load_from_checkpoint"])
@torch.no_grad()
def test_it_loads_elsewhere_and_works_as_before(
    saved: tuple[UniFashionModule, Path], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, root = saved
    monkeypatch.chdir(tmp_path)
    if form == "load_from_checkpoint":
        again = UniFashionModule.load_from_checkpoint(root / "a.ckpt").eval()
    elif form == "saved again":
        again = UniFashionModule.from_pretrained(UniFashionModule.from_pretrained(root / "folder").save_pretrained("copy"))
    else:
        again = UniFashionModule.from_pretrained(root / form)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert (
        blueprints(again.modules()).keys()
        == blueprints(model.modules()).keys()
        == {"qformer", "llm", "unet", "vae", "clip_text"}
    )
    text = "a Red dress, with lace"
    assert torch.equal(model.encode_text(text), again.encode_text(text))
    assert torch.equal(model.encode_image(images(1)[0]), again.encode_image(images(1)[0]))
    assert model.caption(images(1)[0], max_new_tokens=4) == again.caption(images(1)[0], max_new_tokens=4)
    pictures = [m.generate(text, steps=2)[0].tobytes() for m in (model, again)]
    assert pictures[0] == pictures[1]


def test_ckpt_path_needs_no_sources_either(
    saved: tuple[UniFashionModule, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, root = saved
    built: list[UniFashionModule] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(UniFashionCLI, "_run_subcommand", lambda self, name: built.append(self.model))
    main(["test", "--config", "tiny.yaml", "--ckpt_path", str(root / "a.ckpt")])
    assert built[0].state_dict().keys() == model.state_dict().keys()
    built[0].load_state_dict(torch.load(root / "a.ckpt", weights_only=True)["state_dict"])
    assert len(built[0].caption_head.language_model.tokenizer) == len(model.caption_head.language_model.tokenizer)


def test_parts_that_the_file_leaves_out_are_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    model = sourced_model(tmp_path / "sources", leave_out=["vae"])
    folder = model.save_pretrained(tmp_path / "folder")
    again = UniFashionModule.from_pretrained(folder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    shutil.rmtree(tmp_path / "sources")
    with pytest.raises(
        FileNotFoundError, match=r"folder leaves its tensors out \(`leave_out`\): vae is loaded from .*sources/sd.*leave_out"
    ):
        UniFashionModule.from_pretrained(folder)


@pytest.mark.slow
def test_models_of_older_versions_load_where_their_sources_are(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    model = sourced_model(tmp_path / "sources")
    folder = model.save_pretrained(tmp_path / "folder")
    shutil.rmtree(folder / "parts")
    again = UniFashionModule.from_pretrained(folder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    shutil.rmtree(tmp_path / "sources" / "llm")
    with pytest.raises(FileNotFoundError, match="older version, without what this part needs.*llm is loaded from"):
        UniFashionModule.from_pretrained(folder)


@pytest.mark.parametrize("content", [[], {"llm": b""}, {"..": {}}, {"llm": {"../x": b""}}, {"llm": {"x": "text"}}, {1: {}}])
def test_blueprints_stay_in_their_folder(content: object) -> None:
    with pytest.raises(ValueError, match="a damaged file"):
        check_blueprints(content, "a.ckpt")


class Asked:
    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        return name, kwargs


def test_parts_are_looked_for_in_pipelines_in_their_own_folders_and_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "pipe" / "vae").mkdir(parents=True)
    pipe, part = str(tmp_path / "pipe"), str(tmp_path / "pipe" / "vae")
    assert load_part(Asked, pipe, "vae", dtype=1) == (pipe, {"subfolder": "vae", "dtype": 1})
    assert load_part(Asked, Path(part), "vae") == (part, {})
    assert load_part(Asked, "owner/pipeline", "vae") == ("owner/pipeline", {"subfolder": "vae"})
    assert load_part(Asked, "owner/vae:", "vae", dtype=1) == ("owner/vae", {"dtype": 1})


@pytest.mark.parametrize("part", ["llm", "unet", "vae", "clip"])
def test_what_a_file_lacks_of_a_pretrained_part_is_named_and_never_made_up(part: str, tmp_path: Path) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**peers.llama_config(64), bos_token_id=None, eos_token_id=None))
    models = {
        "llm": (llama, "lm_head.weight"),
        "unet": (UNet2DConditionModel(**UNET), "conv_in.bias"),
        "vae": (AutoencoderKL(**VAE), "post_quant_conv.bias"),
        "clip": (CLIPTextModel(CLIPTextConfig(**CLIP_TEXT)), "final_layer_norm.bias"),
    }
    model, lost = models[part]
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    state = load_file(file)
    assert type(load_model(type(model), str(tmp_path))) is type(model)
    save_file({name: tensor for name, tensor in state.items() if not name.endswith(lost)}, file)
    with pytest.raises(ValueError, match=rf"does not hold a whole {type(model).__name__}: 1 tensors .+{lost}"):
        load_model(type(model), str(tmp_path))
