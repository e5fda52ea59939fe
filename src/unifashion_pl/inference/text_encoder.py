"""Vectors of texts without torch: a search by text is answered while torch would still be imported.

The Q-Former reads a text alone as BERT does: no cross-attention, no vision tower, and none of their weights is read. Letters: T tokens,
D hidden width, E embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import BertWordPieceTokenizer, Tokenizer

from unifashion_pl.backbone.words import readable
from unifashion_pl.inference.text_reader import TextReader, plain_tokenizer
from unifashion_pl.reading import read_json
from unifashion_pl.weights.manifest import shipped_file

Floats = NDArray[np.float32]
#: Classes whose models are read here; of others, and of files that numpy cannot hold, the whole model is built.
BACKBONE = ("unifashion_pl.backbone.QFormerBackbone", "unifashion_pl.backbone.qformer.QFormerBackbone")
HEAD = ("unifashion_pl.tasks.RetrievalModule", "unifashion_pl.tasks.retrieval.RetrievalModule")
EPSILON = np.float32(1e-12)
LEAVES = ("weight", "bias")
Pair = tuple[Floats, Floats]
#: What a layer has, a weight and a bias each, in the order of :func:`_layer`.
LAYER = (
    *(f"attention.attention.{part}" for part in ("query", "key", "value")),
    *("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)


def fingerprint_of(tensors: Mapping[str, Floats]) -> str:
    """Which model made vectors: a hash of small tensors that every training changes.

    Args:
        tensors: ``weight`` and ``bias`` of ``ln_vision``, ``queries``, and of both projections with ``v.`` and ``t.`` before them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor, np.float32).tobytes())
    return digest.hexdigest()[:16]


class TextEncoder(TextReader):
    """The text side of a saved model.

    Args:
        settings: of its :class:`~unifashion_pl.backbone.QFormerBackbone`.
        tokenizer: that reads what the model's does.
        tensor: a tensor of the model by its name.

    Attributes:
        width: E. num_queries: tokens of an image.
        fingerprint: as of :func:`unifashion_pl.inference.encode.fingerprint`.
    """

    def __init__(self, settings: Mapping[str, Any], tokenizer: Tokenizer, tensor: Callable[[str], Floats]) -> None:
        super().__init__(tokenizer, int(settings["max_text_tokens"]))
        self.heads = int(settings["num_heads"])

        def pair(name: str) -> Pair:
            return tensor(f"{name}.weight"), tensor(f"{name}.bias")

        self.words, self.positions = (tensor(f"backbone.embeddings.{kind}_embeddings.weight") for kind in ("word", "position"))
        self.norm = pair("backbone.qformer.layernorm")
        layers = [f"backbone.qformer.encoder.layer.{layer}" for layer in range(int(settings["num_layers"]))]
        self.layers = [[pair(f"{layer}.{part}") for part in LAYER] for layer in layers]
        self.projection = pair("retrieval_head.text_proj")
        known = {leaf: tensor(f"backbone.ln_vision.{leaf}") for leaf in LEAVES}
        known |= {"queries": tensor("backbone.query_tokens")}
        for short, name in (("t", "text_proj"), ("v", "vision_proj")):
            known |= {f"{short}.{leaf}": tensor(f"retrieval_head.{name}.{leaf}") for leaf in LEAVES}
        self.fingerprint = fingerprint_of(known)
        self.width, self.num_queries = len(self.projection[1]), known["queries"].shape[1]

    @classmethod
    def of(cls, source: str | Path) -> TextEncoder | None:
        """Of ``tiny``, a folder of a saved model, or a ``.ckpt``, for which torch is imported; None of anything that has to be built to be
        known, or refused.

        That are hub ids, models with parts of other people's, with a published text tower or that have not learned to match texts and images, older
        or damaged files, and weights in types that numpy has not.
        """
        try:
            section, known, tokenizer, tensor = (_checkpoint if str(source).endswith(".ckpt") else _folder)(source)
            ours = section["backbone"]["class_path"] in BACKBONE and section["retrieval"]["class_path"] in HEAD
            if not ours or (known is not None and "retrieval" not in known):
                return None
            settings = section["backbone"]["init_args"]
            if settings.get("text_tower") is not None:
                return None
            return cls(settings, _tokenizer(settings["tokenizer"], tokenizer), tensor)
        except Exception:  # whatever is wrong is said by who builds the whole model; tokenizers raises no other kind
            return None

    def texts(self, texts: str | Sequence[str]) -> list[Floats]:
        """Unit vectors (E,).

        Raises:
            ValueError: no texts, something that is no text, or one of which the model can read nothing.
        """
        listed = readable(texts, self)
        self.warn_if_cut(listed)
        return [self._vector(text) for text in listed]

    def _vector(self, text: str) -> Floats:
        ids = self.ids(text)
        states = _normed(self.words[ids] + self.positions[: len(ids)], *self.norm)
        for layer in self.layers:
            states = _layer(states, self.heads, layer)
        vector = _linear(states[0], *self.projection)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _layer(x: Floats, heads: int, weights: Sequence[Pair]) -> Floats:
    """One layer of BERT on (T, D)."""
    query, key, value, dense, norm, up, down, last = weights
    q, k, v = (_linear(x, *one).reshape(len(x), heads, -1).swapaxes(0, 1) for one in (query, key, value))
    scores = q @ k.swapaxes(1, 2) / np.float32(q.shape[-1] ** 0.5)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    seen = (shares / shares.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(x.shape)
    x = _normed(_linear(seen, *dense) + x, *norm)
    return _normed(_linear(_gelu(_linear(x, *up)), *down) + x, *last)


def _linear(x: Floats, weight: Floats, bias: Floats) -> Floats:
    return np.asarray(x @ weight.T + bias)


def _normed(x: Floats, weight: Floats, bias: Floats) -> Floats:
    x = x - x.mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight + bias)


def _gelu(x: Floats) -> Floats:
    from scipy.special import erf

    return np.asarray(x * np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5))))


#: How a model is built, what it has learned, its tokenizer's file if it has one of its own, and a tensor by its name.
Described = tuple[dict[str, Any], Any, str | None, Callable[[str], Floats]]


def _folder(source: str | Path) -> Described:
    folder = shipped_file("tiny/config.json").parent if str(source) == "tiny" else Path(source)
    content = read_json(folder / "config.json", dict[str, Any])
    if content["format"] != 1:
        raise ValueError("a later version")
    file = folder / "parts" / "qformer" / "tokenizer.json"
    held = safe_open(folder / "model.safetensors", "np")
    words = file.read_text("utf-8") if file.exists() else None
    return content["model"], content["learned"], words, lambda name: np.asarray(held.get_tensor(name), np.float32)


def _checkpoint(source: str | Path) -> Described:
    from unifashion_pl import learned
    from unifashion_pl.parts.rebuild import PARTS, check_blueprints
    from unifashion_pl.parts.tensors import read_content, state_of

    content = read_content(source)
    state = state_of(content, source)
    file = check_blueprints(content[PARTS], str(source)).get("qformer", {}).get("tokenizer.json")
    known = learned.read(content[learned.KEY], source)
    return (
        content["hyper_parameters"],
        known,
        None if file is None else file.decode(),
        lambda name: state[name].detach().float().numpy(),
    )


def _tokenizer(source: str, file: str | None) -> Tokenizer:
    """The Q-Former's, as :func:`unifashion_pl.backbone.tokenizer.load_tokenizer` has it for a saved model."""
    if source == "tiny":
        return BertWordPieceTokenizer(str(files("unifashion_pl.configs") / "tiny_vocab.txt"), lowercase=True)
    return plain_tokenizer(file or "")
