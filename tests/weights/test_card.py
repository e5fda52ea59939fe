"""Model cards and uploads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from unifashion_pl import UniFashionModule
from unifashion_pl.metrics import Interval, ResultRecord, write_records
from unifashion_pl.parameters import shapes_only
from unifashion_pl.weights.card import licence_rows, model_card, sources
from unifashion_pl.weights.manifest import load_manifest

RECORD = ResultRecord(
    "mean/R@10", 71.9, "percent", 360, "fashioniq/x(score=itc)", interval=Interval(67.4, 76.6, 0.95, "bootstrap")
)


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return UniFashionModule.from_config("phase1.yaml", {"caption": None, "diffusion": None})


def test_card_says_data_protocol_metrics_and_licences(model: UniFashionModule, tmp_path: Path) -> None:
    write_records(tmp_path / "results.json", [RECORD, ResultRecord("FID", None, "raw", 1, "p")])
    folder = model.save_pretrained(tmp_path / "m", results=tmp_path, data="A toy wardrobe.", licence="apache-2.0")
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "unifashion-pl"
    assert "A toy wardrobe." in text
    assert "| mean/R@10 | 71.90 | 67.40–76.60 | 360 | `fashioniq/x(score=itc)` |" in text
    assert "| FID" not in text
    assert (folder / "results.json").read_text() == (tmp_path / "results.json").read_text()
    UniFashionModule.from_pretrained(folder)


def test_front_matter_is_what_the_hub_reads(model: UniFashionModule, tmp_path: Path) -> None:
    """By huggingface_hub's own classes: tags, datasets, results under names and with protocol, n and interval."""
    full = [
        RECORD.with_context(dataset="fashioniq/val", seed=0, training_seed=3),
        ResultRecord("CIDEr", 1.7, "raw", 64, "coco(text=description)", dataset="fashiongen/validation"),
        ResultRecord("CIDEr", 0.1, "raw", 64, "coco(text=description)/chance", dataset="fashiongen/validation"),
        ResultRecord("SSIM", 0.8, "raw", 8, "vitonhd/tryon(seed=0)", dataset="vitonhd/test-paired"),
    ]
    write_records(tmp_path / "results.json", full)
    folder = model.save_pretrained(tmp_path / "m", results=tmp_path, licence="apache-2.0", datasets=["fashioniq", "fashiongen"])
    card = ModelCard.load(folder / "README.md")
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-feature-extraction", "unifashion-pl")
    assert card.data.datasets == ["fashioniq", "fashiongen"]
    assert card.data.base_model is None  # nothing of it comes from elsewhere
    composed, captions, pictures = card.data.eval_results
    assert all(isinstance(found, EvalResult) for found in card.data.eval_results)
    assert (composed.metric_type, composed.metric_name, composed.metric_value) == ("mean_r_at_10", "mean/R@10", 71.9)
    assert (composed.dataset_type, composed.dataset_name, composed.dataset_split) == ("fashioniq", "fashioniq/val", "val")
    said = {"protocol": RECORD.protocol, "n": 360, "interval": [67.4, 76.6], "seed": 0, "training_seed": 3}
    assert composed.metric_args == said
    assert [found.task_type for found in (captions, pictures)] == ["image-to-text", "text-to-image"]
    assert len({found.unique_identifier for found in card.data.eval_results}) == 3
    plain = ModelCard.load(model.save_pretrained(tmp_path / "plain") / "README.md")
    assert plain.data.eval_results is None
    assert "model-index" not in plain.data.to_dict()


def test_base_models_are_those_of_the_manifest_that_a_hub_has() -> None:
    configs = ["phase1.yaml", "paper.yaml"]
    model = shapes_only(configs)
    data = ModelCard(model_card(model)).data
    assert "CompVis/stable-diffusion-v1-4" in data.base_model
    known = {part.source for part in load_manifest()}
    assert {*data.base_model} <= known


def test_a_card_without_facts_says_so(model: UniFashionModule, tmp_path: Path) -> None:
    text = (model.save_pretrained(tmp_path / "m") / "README.md").read_text()
    assert "Not stated by whoever saved it." in text
    assert "Numbers without a protocol are not comparable" in text


def test_licences_come_from_the_manifest() -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "src/unifashion_pl/configs/paper.yaml").read_text())["model"]
    found = {name: (licence, commercial) for _, name, licence, commercial in licence_rows(config)}
    assert found["lmsys/vicuna-7b-v1.5"] == ("Llama 2 Community", "unclear")
    assert found["CompVis/stable-diffusion-v1-4"] == ("CreativeML OpenRAIL-M", "yes")
    assert found["google-bert/bert-base-uncased"] == ("Apache-2.0", "yes")
    assert found["weights/blip2"] == (
        "BSD-3-Clause (code; weights not stated apart) and MIT (EVA's code; weights not stated apart)", "unclear",
    )  # fmt: skip
    own = licence_rows(
        {"denoiser": {"source": "a/folder"}, "vision": {"name": "vit_base_patch16_siglip_gap_224.webli", "weights": "timm"}}
    )
    assert own[0] == ("denoiser.source", "a/folder", "unknown", "unclear")
    assert own[1][1] == "timm/vit_base_patch16_siglip_gap_224.webli"
    assert own[1][3] == "yes"


def test_what_is_shipped_is_no_source() -> None:
    assert list(sources(shapes_only(["phase1.yaml"]).hparams)) == []


def test_push_uploads_what_is_saved(model: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    class Api:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            seen.update(repository=repository, private=private, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            seen.update(repo_id=repo_id, files=sorted(path.name for path in Path(folder_path).iterdir()))
            return "address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model.push_to_hub("me/model", private=True) == "address"
    assert seen["files"] == ["README.md", "config.json", "model.safetensors"]
    assert (seen["repository"], seen["repo_id"], seen["private"]) == ("me/model", "me/model", True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = UniFashionModule.from_config("phase1.yaml", {"caption": None, "diffusion": None})
    (tmp_path / "README.md").write_text("my project\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my project\n"
    assert "is not this library's model card, so it stays as it is" in capsys.readouterr().out
    model.save_pretrained(tmp_path)  # its own config may be written again
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="was not written by this library: save into a new folder"):
        model.save_pretrained(other)
    assert [p.name for p in other.iterdir()] == ["config.json"]
