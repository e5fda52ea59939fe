from __future__ import annotations

import os
import unicodedata
import warnings
from pathlib import Path

import pytest
from unifashion_pl.datamodules.catalogue_rows import CatalogueRow, read_catalogue

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café/é.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of empty files, which reading a CSV never opens."""
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    for name in ("0.jpg", "1.jpg", "2.jpg", "a/3.jpg", "b\\4.jpg"):
        (root / name).touch()
    return root


def read(root: Path, *lines: str, **options: dict[str, str]) -> list[CatalogueRow]:
    path = root / "items.csv"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return read_catalogue(path, root, **options)


def images(root: Path, *names: str) -> list[str]:
    return [row.image.relative_to(root).as_posix() for row in read(root, "image", *names)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image,text", "0.jpg,red", "https://shop.example/1.jpg,blue"), "items.csv:3: the image is a URL, 'https://shop"),
        (("image,text", '"data:image/png;base64,iVBO",red'), "items.csv:2: the image is a URL, 'data:image/png"),
        (("image,text", "../1.jpg,blue"), r"items.csv:2: \.\./1.jpg lies outside of .*photos"),
        (("image,text", "a/../../1.jpg,blue"), "items.csv:2: .*lies outside of"),
        (("image,text", "..\\\\1.jpg,blue"), "items.csv:2: .*lies outside of"),
        (("image,text", "C:\\\\photos\\\\1.jpg,blue"), "items.csv:2: C:.*lies outside of"),
        (("image,text", "/etc/passwd,blue"), "items.csv:2: /etc/passwd lies outside of"),
        (("image,text", "a/..,blue"), "items.csv:2: a/.. lies outside of"),
        (("image,text", f"{'x' * 300}.jpg,blue"), "items.csv:2: no file can have a name as long as 'xxx"),
        (("image,text", f"{'x/' * 3000}0.jpg,blue"), "items.csv:2: no file can have a name as long as"),
        (("image,text", '"0.jpg', '9",blue', "1.jpg,red"), r"items.csv:2: an image name with a line break, '0.jpg\\n9'"),
        (
            ("image,text", '0.jpg,"red', "1.jpg,blue", '2.jpg,12"', "a/3.jpg,x"),
            "items.csv:2: a quote .* '1.jpg,blue' is inside",
        ),
        (("text,image,x", '"red,0.jpg,', 'blue",1.jpg,'), "items.csv:2: a quote that opens in this row closes lines later"),
        (("0.jpg,red", "1.jpg,blue"), "items.csv:1: '0.jpg, red' is a row, no header: write one above it, e.g. image,text"),
        (("image,text,Text", "0.jpg,a,b"), "2 columns are called 'text': rename"),
        (("image text", "0.jpg red"), "has the columns image text; expected one called image .*separate them by commas"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused_with_their_line(root: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(root, *lines)


def test_columns_that_nobody_reads_may_be_called_alike(root: Path) -> None:
    assert read(root, "image,option,option,,", "0.jpg,a,b,,")[0].image == root / "0.jpg"


def test_own_columns_may_be_called_as_another_in_other_case(root: Path) -> None:
    (row,) = read(root, "image,text,Text", "0.jpg,a,b", columns={"text": "Text"})
    assert row.text == "b"


def test_names_that_mean_files_below_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert images(root, "a/../0.jpg", "./1.jpg", "a//3.jpg", "a\\9.jpg", str(root / "2.jpg")) == [
        "0.jpg",
        "1.jpg",
        "a/3.jpg",
        "a/9.jpg",
        "2.jpg",
    ]
    assert images(root, "b\\4.jpg") == ["b\\4.jpg"]  # a file that is called so
    monkeypatch.chdir(root.parent)
    (row,) = read(Path("photos"), "image", str(root / "a/3.jpg"))
    assert row.image == Path("photos/a/3.jpg")


def test_links_inside_of_the_root_are_followed_and_absolute_paths_through_them_are_inside(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    (elsewhere / "5.jpg").touch()
    (root / "more").symlink_to(elsewhere)
    assert images(root, "more/5.jpg") == ["more/5.jpg"]
    link = tmp_path / "link"
    link.symlink_to(root)
    (row,) = read(link, "image", str(root / "0.jpg"))
    assert row.image == link / "0.jpg"


@pytest.mark.parametrize(("listed", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (COMPOSED, COMPOSED)])
def test_accents_may_be_composed_or_not(root: Path, listed: str, there: str) -> None:
    (root / there).parent.mkdir()
    (root / there).touch()
    (row,) = read(root, "image", listed)
    assert row.image.is_file()
    assert str(row.image.relative_to(root)) == there


def test_upper_and_lower_case_are_named_and_not_mixed_up(root: Path) -> None:
    (root / "a/3.jpg").rename(root / "a/3.JPG")
    (root / "B.jpg").touch()
    (root / "b.jpg").touch()
    with pytest.warns(UserWarning, match=r"items.csv: 2 images .*upper and lower case: 0.jpg \(line 2\), a/3.JPG \(line 4\)"):
        rows = read(root, "image", "0.JPG", "b.jpg", "A/3.jpg", "9.jpg")
    assert [row.image.is_file() for row in rows] == [False, True, False, False]


def test_what_was_recognised_or_passed_over_is_said(root: Path) -> None:
    with pytest.warns(
        UserWarning, match="items.csv: cells are separated by semicolons; 2 empty rows are passed over: lines 3, 5"
    ):
        assert len(read(root, "image;text", "0.jpg;a, b", ";", "1.jpg;c", ";;;")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(root, "image,text", "0.jpg,a", "", "1.jpg,b", "")) == 2


def test_a_text_may_have_several_lines_and_commas(root: Path) -> None:
    (row,) = read(root, "image,text", '0.jpg,"Red dress', "Cotton, wool", 'see care.jpg"')
    assert row.text == "Red dress\nCotton, wool\nsee care.jpg"


def test_many_rows_cost_one_listing_of_their_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    original = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(str(path)), original(path))[1])
    read(root, "image", *(f"a/{n}.jpg" for n in range(50)))
    assert len(listed) == len(set(listed)) <= 2


@pytest.mark.parametrize("id", ["a\tb", "a\nb", "a\x1b[2Jb", "a\x9bb"])
def test_an_id_that_would_break_a_list_of_ids_is_refused(root: Path, id: str) -> None:
    with pytest.raises(ValueError, match=r"items.csv:2: the id 'a.*b' has a tab, a line break or another control character"):
        read(root, "image,id", f'0.jpg,"{id}"')


def test_ids_of_any_script_and_emoji_are_taken(root: Path) -> None:
    ids = ["007", "7", "Kleid 12″", "👩‍👩‍👧", "a\u00a0b", "红 1"]
    assert [row.id for row in read(root, "image,id", *(f"0.jpg,{id}" for id in ids))] == ids


def test_a_page_instead_of_a_csv_is_not_printed_whole(root: Path) -> None:
    with pytest.raises(ValueError, match="expected one called image") as caught:
        read(root, "<html>" + "x" * 100_000)
    assert len(str(caught.value)) < 1000
