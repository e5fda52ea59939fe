"""A shop of drawings: a CSV with categories, colours and photographers, and its pictures, for tests of what reads a catalogue."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from unifashion_pl.wardrobe.products import make_product
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import colour_phrase

#: What `small.yaml` becomes at the size of the shipped tiny model, from whose weights it starts.
TINY: dict[str, Any] = {
    "trainer": {"accelerator": "cpu", "logger": {"init_args": {"flush_logs_every_n_steps": 1}}, "log_every_n_steps": 1},
    "model": {
        "init_from": "tiny",
        "backbone": {
            "init_args": {
                "vision": {
                    "init_args": {
                        "name": "resnet10t",
                        "image_size": 64,
                        "stages": [],
                        "weights": "none",
                        "timm_kwargs": {"channels": [32, 64, 96, 128], "stem_width": 16},
                    }
                },
                "tokenizer": "tiny",
                "bert": None,
                "num_queries": 8,
                "hidden_size": 128,
                "num_layers": 4,
                "num_heads": 4,
                "intermediate_size": 256,
                "max_text_tokens": 48,
            }
        },
        "retrieval": {"init_args": {"hidden_size": 128, "embed_dim": 64, "itm": True, "itm_samples": 8}},
    },
    "data": {"init_args": {"image_size": 64, "batch_size": 16}},
}


def shop(root: Path, categories: tuple[str, ...] = ("dress", "shirt"), each: int = 30, split: bool = True) -> Path:
    """``root/items.csv`` and ``root/photos``; every fifth photographer's rows are of the test unless ``split`` is off."""
    (root / "photos").mkdir(parents=True)
    with (root / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "id", "title", "text", "category", "photographer", "split"])
        for number in range(each * len(categories)):
            category = categories[number % len(categories)]
            product = make_product(1, number, category)
            render_product(product, "front", 64, f"p{number}").save(root / "photos" / f"{number}.png")
            text, sender = f"a photo of a {colour_phrase(product)} {category}", number // len(categories) % 16
            said = "test" if split and sender % 4 == 0 else ""
            writer.writerow([f"{number}.png", f"i{number}", f"a photo of a {category}", text, category, f"s{sender}", said])
    return root / "items.csv"
