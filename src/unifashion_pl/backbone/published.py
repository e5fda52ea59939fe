"""Published image–text encoders (CLIP, SigLIP, SigLIP 2), imported: their vision tower with its pooling, and their text tower with its tokenizer.

Both read one folder of ``unifashion weights import``, whose ``encoder.json`` describes them. Letters: B batch, P image tokens, W width of either tower,
T tokens of a text, E width of the space that both share.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from unifashion_pl.backbone.vision import VisionTower
from unifashion_pl.backbone.words import Reading, reading_from, warn_of_cut
from unifashion_pl.parts import rebuild
from unifashion_pl.parts.fit import require_fit
from unifashion_pl.parts.mapped import taken, unfilled
from unifashion_pl.parts.tensors import TENSORS, floating, load_tensors
from unifashion_pl.reading import read_json

#: Files of an imported encoder beside its tensors.
DESCRIPTION, WORDS = "encoder.json", "tokenizer.json"
#: Where our own format keeps the text tower.
TEXT = "backbone.text_tower."
Clean = Literal["canonicalize", "lower", "none"]
Kind = Literal["siglip", "clip"]
#: What stands for a blank in a piece, and tokens for single bytes of characters that a vocabulary has not.
BLANK, BYTE = "▁", re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class ImageSide:
    """A ViT of timm whose ``forward_head`` pools its tokens into the shared space.

    Attributes:
        name, arguments: of ``timm.create_model``.
        image_size: S in pixels. mean, std: of pixels in 0..1.
    """

    name: str
    arguments: dict[str, int | float | str]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TextSide:
    """A text transformer: ``siglip`` reads all tokens both ways and takes the last, ``clip`` reads forwards and takes the first ``end``.

    Attributes:
        config: fields of transformers' ``SiglipTextConfig`` or ``CLIPTextConfig``.
        clean: what is done to a text before its tokenizer: ``canonicalize`` drops punctuation and case, ``lower`` case.
        pad: id behind a text's end. end: id of the end.
    """

    kind: Kind
    config: dict[str, int | float | str]
    clean: Clean
    pad: int
    end: int


@dataclass(frozen=True)
class Encoder:
    """``encoder.json``; ``width`` is E."""

    width: int
    image: ImageSide
    text: TextSide

    def written(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=1) + b"\n"


def described(source: str | Path, part: str) -> tuple[Encoder, Path]:
    """The description in a folder, and the folder: of a model that is being built again its blueprint's.

    Raises:
        FileNotFoundError: no imported encoder there.
        ValueError: a description that is none.
    """
    folder = rebuild.blueprint_of(part)
    if folder is None:
        folder = Path(source)
        with rebuild.reading_source(part, str(source)):
            if not (folder / DESCRIPTION).is_file():
                raise FileNotFoundError(
                    f"no image–text encoder at {source}: expected a folder of `unifashion weights import` with {DESCRIPTION}; the first "
                    "lines of fashion.yaml say what to download"
                )
    return read_json(folder / DESCRIPTION, Encoder, "an encoder's description"), folder


class PublishedVision(VisionTower):
    """The vision tower of an imported encoder with its final norm, and its pooling.

    Args:
        source: folder of ``unifashion weights import``.
        image_size: another side than the published one, to which position embeddings are interpolated.
        dtype, gradient_checkpointing: as of :class:`~unifashion_pl.backbone.VisionTower`.

    Raises:
        FileNotFoundError, ValueError: nothing imported there, or damaged.
    """

    def __init__(
        self, source: str, *, image_size: int | None = None, dtype: str = "float32", gradient_checkpointing: bool = False
    ) -> None:
        encoder, _ = described(source, self.part)
        side = encoder.image
        if not side.name.startswith("vit_"):
            raise ValueError(f"{source} describes a vision tower {side.name!r}, expected a ViT")
        size = image_size or side.image_size
        super().__init__(
            side.name,
            image_size=size,
            timm_kwargs={**side.arguments, "img_size": size},
            weights=str(source),
            final_norm=True,
            mean=side.mean,
            std=side.std,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.encoder = encoder

    def blueprint(self) -> dict[str, bytes]:
        return {DESCRIPTION: self.encoder.written()}

    def pool(self, features: Tensor) -> Tensor:
        """Tokens of :meth:`forward` (B, P, W) -> unit vectors (B, E), the published ones of the images."""
        return F.normalize(self.model.forward_head(features.to(self.dtype)).float(), dim=-1)


class PublishedText(nn.Module):
    """The text tower of an imported encoder.

    Args:
        source: folder of ``unifashion weights import``.
        dtype: of its parameters.

    Attributes:
        logit_scale: logarithm of the published inverse temperature. width: E.

    Raises:
        FileNotFoundError, ValueError: nothing imported there, or damaged.
    """

    part = "text_tower"
    pretrained = True

    logit_scale: Tensor

    def __init__(self, source: str, *, dtype: str = "float32") -> None:
        super().__init__()
        self.encoder, folder = described(source, self.part)
        self.width = self.encoder.width
        self.tokenizer = read_words(folder / WORDS)
        self._words = self.tokenizer.to_str()
        self._bytes = frozenset(id for token, id in self.tokenizer.get_vocab().items() if BYTE.fullmatch(token))
        side = self.encoder.text
        self.length = int(side.config["max_position_embeddings"])
        inside = unfilled(lambda: build_text(side, self.width), floating(dtype))
        self.model, self.projection = inside.model, inside.projection
        self.register_buffer("logit_scale", torch.zeros(()))
        if not rebuild.brings_tensors(self.part):
            self._load(folder)
        self.requires_grad_(False)

    def _load(self, folder: Path) -> None:
        file = folder / TENSORS
        state = {n.removeprefix(TEXT): t for n, t in load_tensors(file).items() if n.startswith(TEXT)}
        require_fit(state, self.state_dict(), f"{file} does not fit its own description", "Import it again")
        self.load_state_dict(taken(self, state))

    def blueprint(self) -> dict[str, bytes]:
        """The description and the tokenizer."""
        return {DESCRIPTION: self.encoder.written(), WORDS: self._words.encode()}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, T) int64 on the CPU: SigLIP's are padded to its full length, which it reads; CLIP's to the longest."""
        side = self.encoder.text
        rows = [self._ids(text) for text in texts]
        longest = self.length if side.kind == "siglip" else max(map(len, rows))
        return torch.tensor([row + [side.pad] * (longest - len(row)) for row in rows])

    def _ids(self, text: str) -> list[int]:
        ids, end = self.tokenizer.encode(self._cleaned(text)).ids, self.encoder.text.end
        return ids if len(ids) <= self.length else [*ids[: self.length - 1], end]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> unit vectors (B, E), the published ones of the texts."""
        out = self.model(input_ids=ids)
        if self.projection is None:
            pooled = out.pooler_output
        else:
            ends = (ids == self.encoder.text.end).int().argmax(1)
            states = out.last_hidden_state
            pooled = self.projection(states[torch.arange(len(ids), device=ids.device), ends])
        return F.normalize(pooled.float(), dim=-1)

    def _cleaned(self, text: str) -> str:
        return cleaned(text, self.encoder.text.clean)

    def reading_of(self, text: str) -> Reading:
        """What the vocabulary has of a text; characters that it has as bytes alone are not read."""
        plain, nothing = self._cleaned(text), -1
        found = self.tokenizer.encode(plain, add_special_tokens=False)
        unread = {*self._bytes, *(self.tokenizer.token_to_id(mark) for mark in ("<unk>", "[UNK]"))}
        kept = [i for i, token in enumerate(found.tokens) if token.strip(BLANK)]
        ids = [nothing if found.ids[i] in unread else found.ids[i] for i in kept]
        return reading_from(plain, ids, [found.offsets[i] for i in kept], [found.word_ids[i] for i in kept], nothing)

    def last_tensors(self) -> dict[str, Tensor]:
        """What tells one encoder from another: the last layer of the text tower."""
        last = self.model.head if self.projection is None else self.projection
        return dict(last.state_dict())

    def warn_if_cut(self, texts: Sequence[str]) -> None:
        """Say which texts are longer than is read; users' texts, not training's."""
        whole = [len(self.tokenizer.encode(self._cleaned(text)).ids) for text in texts]
        warn_of_cut(texts, whole, [min(length, self.length) for length in whole], "the text tower")


def beside(vision: nn.Module, text: PublishedText | None) -> PublishedText | None:
    """A text tower beside the vision tower of its own encoder.

    Raises:
        ValueError: it is another's.
    """
    if text is not None and (not isinstance(vision, PublishedVision) or vision.encoder != text.encoder):
        raise ValueError(
            "text_tower needs the vision tower of the same encoder: vision is a PublishedVision with the same source"
        )
    return text


def cleaned(text: str, how: Clean) -> str:
    """A text as its encoder was trained on it, as open_clip does it, but that ftfy mends no encodings.

    >>> cleaned("A_red  Dress!", "canonicalize"), cleaned(" A_red  Dress!", "lower")
    ('a red dress', 'a_red dress!')
    """
    if how == "none":
        return text
    if how == "canonicalize":
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(text.lower().split())


def read_words(path: Path) -> Tokenizer:
    """A tokenizer without padding and truncation.

    Raises:
        FileNotFoundError: none there.
        ValueError: no tokenizer in the file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {path}: download {path.name} of the same publisher beside the weights (a spiece.model alone is not read)"
        )
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no other kind
        raise ValueError(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from error
    made.no_padding()
    made.no_truncation()
    return made


class _Inside(nn.Module):
    def __init__(self, model: nn.Module, projection: nn.Linear | None) -> None:
        super().__init__()
        self.model, self.projection = model, projection


def build_text(side: TextSide, width: int) -> Any:
    """transformers' text transformer of a description, as ``model`` and, of CLIP, ``projection``.

    Raises:
        ValueError: fields that no such model has.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, SiglipTextConfig, SiglipTextModel

    siglip = side.kind == "siglip"
    config_class: Any = SiglipTextConfig if siglip else CLIPTextConfig
    model_class: Any = SiglipTextModel if siglip else CLIPTextModel
    marks = {"bos_token_id": None, "eos_token_id": side.end, "pad_token_id": side.pad}
    given: dict[str, Any] = {**marks, **side.config, **({"projection_size": width} if siglip else {})}
    if unknown := sorted(given.keys() - config_class().to_dict().keys()):
        raise ValueError(
            f"the description of a text tower names {', '.join(unknown)}, which {config_class.__name__} does not have"
        )
    try:
        whole = model_class(config_class(**given))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"no text tower can be built of {given}: {error}") from error
    inner = getattr(whole, "text_model", whole)  # transformers 4 wraps what 5 does not
    return _Inside(inner, None if siglip else nn.Linear(int(side.config["hidden_size"]), width, bias=False))
