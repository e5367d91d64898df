"""Posts in tables."""

from pathlib import Path

import pytest

from mnerfeat.datasets import Post, read_posts
from mnerfeat.errors import DataError
from tests.datasets.formats.files import read


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_spans_of_characters_become_tags(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "id,note,text,images,entities\r\n"
        '7,x,"Kawhi Leonard wins, #Rio",a.jpg; b.jpg,0:13:PERSON;21:24:LOC\r\n'
        '8,x,"a ""b""\nc",,\r\n',
    )
    one, two = read_posts(path, labelled=True)
    assert one == Post(
        id="7",
        words=("Kawhi", "Leonard", "wins", ",", "#", "Rio"),
        tags=("B-PER", "I-PER", "O", "O", "O", "B-LOC"),
        images=("a.jpg", "b.jpg"),
    )
    assert one.offsets == ((0, 5), (6, 13), (14, 18), (18, 19), (20, 21), (21, 24))
    assert two == Post(id="8", words=("a", '"', "b", '"', "c"), tags=("O",) * 5)


def test_tsv_with_words_needs_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'Words\timages\ndon\'t stop\t\n\t["a;b.jpg"]\n')
    assert read_posts(path) == (
        Post(id="1", words=("don't", "stop")),
        Post(id="2", words=(), images=("a;b.jpg",)),
    )
    with pytest.raises(DataError, match="no column 'entities'"):
        read_posts(path, labelled=True)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "text,entities,images\n"
        "fine,0:4:PER,\n"
        "short,0:1:PER\n"
        ",,\n"
        "abc,0:4:PER,\n"
        "abc,x:2:PER,\n"
        "abc,0:2,\n"
        "a b,0:3:PER;2:3:LOC,\n"
        "a b,1:2:PER,\n"
        "abc,,[3]\n"
        "abc,,a;;b\n"
        "abc,0:1:B C,\n",
    )
    with pytest.raises(DataError) as caught:
        read(path, "csv")
    assert [int(fault.split(":")[1]) for fault in caught.value.faults] == list(range(3, 13))


def test_a_table_that_ends_in_a_quote_or_is_binary_is_our_error(tmp_path: Path) -> None:
    huge = "text\n" + "a" * 200_000
    with pytest.raises(DataError, match="not a table: field larger"):
        read_posts(write(tmp_path / "a.csv", huge))
    (tmp_path / "b.csv").write_bytes(b"text,images\n\xff,\n")
    with pytest.raises(DataError, match=r"b\.csv:2: not UTF-8"):
        read_posts(tmp_path / "b.csv")
