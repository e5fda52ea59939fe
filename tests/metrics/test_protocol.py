"""A protocol is a value: its text says all of it, and is what results.json has always said."""

import json
from dataclasses import replace

import pytest
from goldens import take
from hypothesis import given
from hypothesis import strategies as st

from unifashion_pl.metrics.protocol import AUDIT, PICTURES, SCORES, Protocol
from unifashion_pl.metrics.records import ResultRecord, read_records, write_records

#: Texts that this library writes, or wrote, beyond those of the goldens.
WRITTEN = {
    "fashioniq/original[18/19]/ref-kept/both(w=1,score=itc,text=and,gallery=40/42,captions=2/3,captions=leaked)": Protocol(
        "fashioniq",
        gallery="original",
        part="18/19",
        reference="ref-kept",
        score="both",
        details=(
            ("w", "1"),
            ("score", "itc"),
            ("text", "and"),
            ("gallery", "40/42"),
            ("captions", "2/3"),
            ("captions", "leaked"),
        ),
    ),
    "fashioniq/union/ref-removed/caption(score=itc,text=comma,captions=suspicious)/no-overlap": Protocol(
        "fashioniq",
        gallery="union",
        reference="ref-removed",
        score="caption",
        details=(("score", "itc"), ("text", "comma"), ("captions", "suspicious")),
        further=("no-overlap",),
    ),
    "fashioniq/original/caption-audit(bag-of-words)": Protocol(
        "fashioniq", gallery="original", score=AUDIT, details=(("bag-of-words", None),)
    ),
    "robustness/negation/fashioniq/original/ref-kept/image(pooled,queries=changed,score=itc,text=and)": Protocol(
        "fashioniq",
        robustness="negation",
        gallery="original",
        reference="ref-kept",
        score="image",
        details=(("pooled", None), ("queries", "changed"), ("score", "itc"), ("text", "and")),
    ),
    "robustness/product-level/gallery/ref-kept/image(images=20,products=5,score=itc)": Protocol(
        "gallery",
        robustness="product-level",
        reference="ref-kept",
        score="image",
        details=(("images", "20"), ("products", "5"), ("score", "itc")),
    ),
    "robustness/multi-round/wardrobe-dress/image(rounds=3,images=9,references=removed,found=by-round,score=itc)": Protocol(
        "wardrobe-dress", robustness="multi-round", score="image"
    ).adding(rounds=3, images=9, references="removed", found="by-round", score="itc"),
    "first-mention(list=colour,words=29)/chance": Protocol("first-mention", chance=True).adding(list="colour", words=29),
    "vitonhd/test-paired/tryon/garment-withheld(sampler=fast,start=noise)": Protocol(
        "tryon", "vitonhd/test-paired", withheld="garment", details=(("sampler", "fast"), ("start", "noise"))
    ),
    "fashiongen/validation/reconstruction(seed=0,sampler=fast,shortened=4/?)/clean/openai-vit-l14/full": Protocol(
        "reconstruction",
        "fashiongen/validation",
        details=(("seed", "0"), ("sampler", "fast"), ("shortened", "4/?")),
        further=("clean", "openai-vit-l14", "full"),
    ),
    "vitonhd_unpaired/clean/gt-native/repaint-off/noise-normal": Protocol(
        "vitonhd_unpaired", further=("clean", "gt-native", "repaint-off", "noise-normal")
    ),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_texts_and_values_say_the_same(text):
    assert Protocol.parse(text) == WRITTEN[text]
    assert str(WRITTEN[text]) == text


def test_every_protocol_of_the_small_run_of_before_is_read_and_written_as_it_was():
    run = take.read(take.HERE, "run")
    texts = {r["protocol"] for name, records in run.items() if name.endswith("results.json") for r in records}
    values = {text: Protocol.parse(text) for text in texts}
    assert len(texts) > 50
    assert all(str(value) == text for text, value in values.items())
    families = {"coco", "fashiongen_100", "fashiongen_full", "fashioniq", "first-mention", "reconstruction", "tryon", "design"}
    assert {value.family for value in values.values()} == families
    assert {value.dataset for value in values.values()} == {"", "fashiongen/validation", "vitonhd/test-paired"}
    assert sum(value.composed for value in values.values()) == sum(text.startswith("fashioniq/") for text in texts)
    assert sum(value.chance for value in values.values()) == sum(text.endswith("/chance") for text in texts)
    assert {value.withheld for value in values.values()} == {"", "garment", "text", "sketch"}
    assert not any(value.shortened or value.unsafe for value in values.values())


words = st.from_regex(r"[a-z0-9][a-z0-9_.+-]{0,11}", fullmatch=True).filter(
    lambda word: (
        word not in (*SCORES, *PICTURES, AUDIT, "chance", "robustness") and "ref-" not in word and "-withheld" not in word
    )
)
details = st.lists(st.tuples(words, st.none() | words | st.just("") | st.just("3/4")), min_size=1, max_size=5).map(tuple)
shared = {"details": details, "further": st.lists(words, max_size=3).map(tuple), "chance": st.booleans()}
galleries = {"gallery": words, "reference": st.sampled_from(["ref-kept", "ref-removed"]), "score": st.sampled_from(SCORES)}
protocols = st.one_of(
    st.builds(Protocol, words, robustness=st.just("") | words, **shared),
    st.builds(Protocol, words, robustness=st.just("") | words, part=st.sampled_from(["", "18/19"]), **galleries, **shared),
    st.builds(
        Protocol,
        st.sampled_from(PICTURES),
        words | st.builds("{}/{}".format, words, words),
        withheld=st.just("") | words,
        **shared,
    ),
    st.builds(Protocol, words, robustness=st.just("") | words, further=shared["further"], chance=st.booleans()),
)


@given(protocols)
def test_whatever_a_protocol_says_comes_back_from_its_text(protocol):
    assert Protocol.parse(str(protocol)) == protocol


@given(
    st.text()
    | st.text("abc/()[]=, ", max_size=30)
    | st.from_regex(r"[a-z/\[\]()=,-]*(chance|ref-kept|image|-withheld)[a-z/()]*")
)
def test_texts_of_others_stay_as_they_are(text):
    assert str(Protocol.parse(text)) == text


@pytest.mark.parametrize("text", ["mine", "my (new) metric (v2)", "a/b", "top(5)/of(9)", "x(y"])
def test_labels_on_protocols_of_others_are_found_again(text):
    labelled = Protocol.parse(text).adding(shortened="3/5")
    assert Protocol.parse(str(labelled)).shortened
    assert not Protocol.parse(text).shortened


def test_what_is_wrong_with_a_number_is_read_off_its_protocol():
    plain = Protocol.parse("fashioniq/original/ref-kept/both(w=1,score=itc,text=and)")
    assert (plain.composed, plain.half, plain.unsafe, plain.shortened) == (True, "itc", "", False)
    assert plain.adding(captions="2/3").unsafe == ""
    assert plain.adding(captions="2/3").adding(captions="leaked").unsafe == "leaked"
    for shortened in (plain.adding(shortened="4/?"), plain.adding(gallery="4/9"), replace(plain, part="18/19")):
        assert shortened.shortened
        assert Protocol.parse(str(shortened)) == shortened
    assert not replace(plain, robustness="negation").composed
    assert not plain.adding(gallery="all").shortened


def test_records_of_before_the_field_keep_their_doubts(tmp_path):
    told = "unifashion_pl.metrics.fashioniq; leaked: gallery captions are not known to be query-blind: no template (3, e.g. a)"
    base = {"metric": "Avg", "value": 1.0, "unit": "percent", "n": 3}
    rows = [
        {**base, "protocol": "fashioniq/original/ref-kept/both(w=1,score=itc,captions=leaked)", "implementation": told},
        {**base, "protocol": "fashioniq/original/ref-kept/image(score=itc)", "implementation": told},
        {**base, "protocol": "fashioniq/original/caption-audit(bag-of-words)"}
        | {"implementation": "held-out bag of words: refuse; standard error without leak 0.010"},
        {**base, "protocol": "fashioniq/original/caption-audit(bag-of-words)"}
        | {"implementation": "held-out bag of words: ok; standard error without leak 0.010"},
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    records = read_records(tmp_path / "results.json")
    assert [r.doubt for r in records] == [told.partition("leaked: ")[2], None, "refuse", None]
    write_records(tmp_path / "again.json", records)
    assert read_records(tmp_path / "again.json") == records
    assert ["doubt" in row for row in json.loads((tmp_path / "again.json").read_text())] == [True, False, True, False]


def test_a_record_holds_the_text_and_the_value():
    record = ResultRecord("Avg", 1.0, "percent", 3, "my own metric")
    assert record.under == Protocol("my own metric")
    assert record.protocol == "my own metric"
    assert not record.shortened
