from __future__ import annotations

import random
from pathlib import Path

import pytest

from unifashion_pl.reading import FormatError
from unifashion_pl.reading_csv import CsvRow, parse_table, read_table


def cells(text: str) -> list[list[str]]:
    return [row.cells for row in parse_table(text, "f.csv").rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['1.jpg,"red', "2.jpg,blue", "3.jpg,green"], r"f.csv:3: a quote opens a cell and is never closed.*'1.jpg,\"red'"),
        (['1.jpg,"red', '2.jpg,"blue, long"'], "f.csv:3: text follows the quote that closes a cell in line 4"),
        (['1.jpg,"12" wide"'], "f.csv:3: text follows the quote that closes a cell: "),
        (['"1', '.jpg","red', "2.jpg,blue"], "f.csv:4: a quote opens a cell and is never closed"),
        (['1.jpg,"red""', "2.jpg,blue"], "f.csv:3: a quote opens a cell and is never closed"),
        (["1.jpg"], "f.csv:3: 1 cells, but the header has 2: nothing stands for text"),
        (["1.jpg,red, long"], "f.csv:3: 3 cells, but the header has 2: 'long' is too much; a text with commas"),
        (["", "", "1.jpg,red,"], "f.csv:5: 3 cells, but the header has 2"),
        ([f'1.jpg,"{"x" * 200_000}"'], "f.csv:3: a cell of more than 131,072 characters"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_broken_rows_are_refused_with_the_line_in_which_they_break(rows: list[str], message: str, end: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_table(end.join(["image,text", "0.jpg,white", *rows, ""]), "f.csv")


def test_cells_may_hold_breaks_quotes_and_separators() -> None:
    text = 'image,text\n0.jpg,"red,\nlong"\n1.jpg,12" wide\n2.jpg, "a ""b"""\n3.jpg,x\u2028y\x85z\n'
    table = parse_table(text, "f.csv")
    assert table.rows == [
        CsvRow(2, ["0.jpg", "red,\nlong"]),
        CsvRow(4, ["1.jpg", '12" wide']),
        CsvRow(5, ["2.jpg", 'a "b"']),
        CsvRow(6, ["3.jpg", "x\u2028y\x85z"]),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_what_the_header_has(separator: str) -> None:
    lines = [separator.join(row) for row in (["image", "text"], ["0.jpg", '"a, b; c\td | e"'])]
    table = parse_table("\n".join(lines), "f.csv")
    assert (table.separator, table.header, table.rows[0].cells[1]) == (separator, ["image", "text"], "a, b; c\td | e")
    assert parse_table(f"sep={separator}\n" + "\n".join(lines), "f.csv").rows[0].line == 3


def test_a_comma_in_the_quotes_of_the_header_separates_nothing() -> None:
    assert parse_table('"image, file";text\n0.jpg;red\n', "f.csv").header == ["image, file", "text"]


def test_rows_of_empty_cells_are_no_rows_but_counted() -> None:
    table = parse_table("image,text\n0.jpg,red\n,,,,\n\n , \n1.jpg,blue\n,\n", "f.csv")
    assert ([row.line for row in table.rows], table.empty) == ([2, 6], [3, 5, 7])


def test_a_file_without_anything() -> None:
    assert parse_table("", "f.csv").header == parse_table("\n\n", "f.csv").header == []


def test_a_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("image,text\n0.jpg,Café\n", "utf-8-sig")
    assert read_table(tmp_path / "f.csv").header == ["image", "text"]


def test_what_is_done_to_a_file_is_refused_or_loses_no_row() -> None:
    """Random quotes: the names in the first column are all there, or an error says the line."""
    dice = random.Random(0)
    outcomes = [0, 0]
    for _ in range(300):
        lines = [f"{i}.jpg,red dress number {i},dresses" for i in range(6)]
        number = dice.randrange(6)
        place = dice.randrange(len(lines[number]) + 1)
        lines[number] = lines[number][:place] + '"' + lines[number][place:]
        try:
            found, said = cells("\n".join(["image,text,category", *lines, ""])), ""
        except FormatError as error:
            found, said = [], str(error)
        outcomes[bool(said)] += 1
        assert said.startswith(f"f.csv:{number + 2}: ") if said else len(found) == 6
    assert min(outcomes) > 10


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("sku;image;price, EUR\n1;0.jpg;1,5\n", ";"),
        ('image\t"a, b, c"\ttext, long\n0.jpg\tx\ty\n', "\t"),
        ("image,sizes S|M\n0.jpg,M\n", ","),
        ("image\n0.jpg\n", ","),
    ],
)
def test_the_separator_is_what_the_header_has_most_of(text: str, separator: str) -> None:
    assert parse_table(text, "f.csv").separator == separator


def test_rows_that_end_with_more_separators_than_the_header_are_told_so() -> None:
    with pytest.raises(FormatError, match=r"f.csv:2: 4 cells, .* 2: the row ends with commas that the header lacks"):
        parse_table("image,text\n0.jpg,red,,\n", "f.csv")
