"""Trains the two shipped tokenizers: ``python checkpoints/train_tiny_tokenizers.py``.

``tiny_vocab.txt`` is the WordPiece vocabulary of the small Q-Former, ``tiny_llm_tokenizer.json`` the byte-level BPE of the small
language model. The shipped weights (``configs/tiny_sd``, ``checkpoints/tiny``) hold the ids of the shipped files, which were made from an
earlier draw of the wardrobe: after training tokenizers anew, train the weights anew too.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unifashion_pl.files import write_text
from unifashion_pl.wardrobe.products import ATTRIBUTES, RULES, change, make_product
from unifashion_pl.wardrobe.texts import describe, modifying_texts, name_of

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LLM_SPECIALS = ["<s>", "</s>", "<pad>"]

#: Fashion words beyond the toy wardrobe, so that a user's own texts do not fall apart into letters.
WORDS = """
a an and are as at but by darker down for from front back sides has have in into is it its less lighter like more no not of off on
one only or other out over same side similar slightly some than that the these this to two three four five up very with without
apron backpack bag belt blazer blouse bodysuit boots bra bracelet camisole cap cardigan chinos cloak clutch coat corset culottes
denim dress dungarees earrings espadrilles flats gilet gloves gown hat heels hoodie jacket jeans jersey jumper jumpsuit kimono
leggings loafers mini miniskirt necklace overalls overcoat pants parka pinafore polo poncho pullover pumps pyjamas ring robe romper
sandals sari sarong scarf shawl shirt shoes shorts skirt sleepwear slip slippers sneakers socks stockings suit sunglasses sweater
sweatpants sweatshirt swimsuit tank tee tie tights top tracksuit trainers trench trousers tunic turtleneck tuxedo underwear vest
waistcoat wallet watch
amber aqua beige black blue bronze brown burgundy camel charcoal coral cream crimson cyan dark fuchsia gold gray green grey indigo
ivory khaki lavender light lilac magenta maroon mauve metallic mint mustard navy nude ochre off-white olive orange peach pink
purple red rose ruby rust salmon scarlet silver tan teal turquoise violet white wine yellow
acrylic canvas cashmere chiffon corduroy cotton crepe denim elastane faux flannel fleece fur gauze georgette jacquard knit lace
leather linen lurex lycra merino mesh mohair nylon organza poplin polyester ribbed satin sequin shearling silk spandex suede taffeta
terry tulle tweed twill velour velvet viscose wool woven
abstract animal argyle brocade camouflage check checked chevron distressed dotted embellished embroidered faded floral flowers
geometric gingham gradient graphic herringbone houndstooth leopard letters logo marled paisley patchwork pattern patterned
pinstriped plaid plain polka print printed quilted solid striped stripes tartan textured tie-dye washed zebra
asymmetric backless bardot bateau batwing bell boat button buttons buttoned cap cinched collar collared cowl crew crewneck cropped
cuffs cutout deep double-breasted drape draped drawstring elasticated fitted flared flowing frayed fringe full gathered halter hem
high hood hooded keyhole knee-length lapel layered length lined long longer loose low maxi midi neck neckline off-the-shoulder open
oversized pencil peplum pleated plunging pocket pockets puff raglan regular relaxed round ruched ruffle ruffled scoop seam
sheer short shorter shoulder shoulders skater skinny sleeve sleeved sleeveless sleeves slim slit slits spaghetti square stand strap
strapless straps straight surplice tailored tapered tapering tiered tight tone trim V-neck waist waistband wide wrap zip zipper
beautiful bold bright casual chic classic clean clothing cloth collection color colorful colour contemporary contrast cool cute
delicate design designer detail detailed dressy elegant elegance evening everyday fabric fancy fashion fashionable feminine festive
floor formal garment length lightweight looks luxurious masculine material minimal model modern office party photo piece pretty
professional revealing season sexy simple soft sporty spring style styled stylish subtle summer tonal traditional trendy vintage
warm wear wearing winter women men woman man unisex
"""
SENTENCES = [
    "USER: <Img>",
    "</Img> Short description. Assistant:",
    "</Img> Write a detail and professional description for the cloth. Assistant:",
    "</Img> Describe the cloth's style, color, design and other key points. Assistant:",
    "Long sleeve cotton-blend sweatshirt in navy. Ribbed crewneck collar, cuffs, and hem. Tonal stitching.",
    "Slim-fit jeans in black. Five-pocket styling. Zip-fly. Logo patch at back waistband.",
    "Is darker and has longer sleeves, and is less revealing.",
    "The dress is more colorful with a floral print and thinner straps.",
    "This is a sleeveless shirt with a round neck, made of lightweight silk.",
    "Size S, M, L, XL: 36, 38, 40, 42; 100% wool (machine wash, 30 degrees)!",
]
PUNCTUATION = list(string.punctuation)


def wardrobe_texts(products: int = 2000, seed: int = 0) -> Iterator[str]:
    """Names, captions in three styles and modifying texts of a catalogue, then words and sentences from outside it."""
    rng = random.Random(f"{seed}/texts")
    for index in range(products):
        product = make_product(seed, index)
        yield name_of(product)
        for style in ("fashion200k", "fashiongen", "fashioniq"):
            yield describe(product, style, rng)
        varying = [name for name in ATTRIBUTES if name in RULES[product.category] or name in ("colour", "pattern")]
        target = change(product, list(rng.choice(list(combinations(varying, 2)))), rng)
        if target is not None:
            yield from modifying_texts(product, target, rng)
    for word in WORDS.split():
        yield f"{word} {word}, {word.capitalize()}"
    yield from SENTENCES


def train_wordpiece(texts: Iterable[str], size: int = 1400) -> list[str]:
    """A BERT vocabulary in id order: special tokens, single characters (alone and as ``##x``), then learnt pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = list(string.ascii_lowercase + string.digits)
    first = [*BERT_SPECIALS, *characters, *(f"##{c}" for c in characters), *PUNCTUATION]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learnt = tokenizer.get_vocab()
    return list(dict.fromkeys([*first, *sorted(learnt, key=lambda token: learnt[token])]))


def train_byte_bpe(texts: Iterable[str], size: int = 1000) -> Tokenizer:
    """A byte-level BPE tokenizer, which decodes to exactly what it encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=LLM_SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main(folder: Path = Path(__file__).parents[1] / "src" / "unifashion_pl" / "configs") -> None:
    """Writes both files into ``folder``."""
    vocabulary = train_wordpiece(wardrobe_texts())
    write_text(folder / "tiny_vocab.txt", "\n".join(vocabulary) + "\n")
    tokenizer = train_byte_bpe(wardrobe_texts())
    write_text(folder / "tiny_llm_tokenizer.json", tokenizer.to_str(pretty=False))
    print(f"tiny_vocab.txt: {len(vocabulary)} entries; tiny_llm_tokenizer.json: {tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    main()
