"""Networks behind image metrics: local weights only, and entered where they should be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unifashion_pl.metrics import image_nets


class Layers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TestNetworks:
    def test_missing_weights_are_a_clear_sentence(self, tmp_path):
        for build in (image_nets.InceptionFeatures, image_nets.Lpips, image_nets.ClipCosines):
            for path in (None, tmp_path / "nothing.pth"):
                with pytest.raises(image_nets.WeightsMissing, match="needs local weights, nothing is downloaded"):
                    build(path)
        (tmp_path / "x.pth").write_bytes(b"x")
        with pytest.raises(ValueError, match="expected 00"):
            image_nets.local_file(tmp_path / "x.pth", "FID", sha256="00")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_inception_is_entered_behind_its_resize(self, tmp_path):
        torch.jit.script(Scripted()).save(str(tmp_path / "inception.pt"))
        network = image_nets.InceptionFeatures(tmp_path / "inception.pt").train()
        images = torch.full((2, 3, 20, 10), 192, dtype=torch.uint8)
        assert torch.allclose(network(images), torch.full((2, 3), 0.5))
        assert not network.training

    def test_lpips_properties(self, tmp_path):
        torchvision = pytest.importorskip("torchvision")
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "backbone.pth")
        network = image_nets.Lpips(tmp_path / "backbone.pth", "squeeze")
        a, b = torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48)
        assert network(a, a).tolist() == [0.0, 0.0]
        assert torch.allclose(network(a, b), network(b, a))
        assert torch.allclose(network(a, b)[1:], network(a[1:], b[1:]), atol=1e-6)
        torch.save({}, tmp_path / "empty.pth")
        with pytest.raises(ValueError, match="backbone weights lack features"):
            image_nets.Lpips(tmp_path / "empty.pth", "squeeze")

    def test_clip_cosines_of_a_tiny_local_model(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        part = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 8,
        }
        config = transformers.CLIPConfig(
            text_config={**part, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
            vision_config={**part, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
        pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[0, 5, 6, 1], [0, 7, 8, 1]])
        seen = image_nets.embedding(model.get_image_features(pixel_values=pixels))
        read = image_nets.embedding(model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)))
        whole = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
        assert torch.allclose(nn.functional.normalize(seen, dim=1), whole.image_embeds, atol=1e-5)
        assert torch.allclose(nn.functional.normalize(read, dim=1), whole.text_embeds, atol=1e-5)
