import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.errors import DataError, StorageError
from mnerfeat.preference.rankings import (
    Ranking,
    count_sources,
    read_rankings,
    write_rankings,
)

from .builders import rankings


def write(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


@given(
    some=st.lists(
        rankings(), min_size=1, max_size=6, unique_by=lambda r: (r.split, r.id, r.annotator)
    )
)
def test_what_is_written_is_read_back(some, tmp_path_factory):
    path = tmp_path_factory.mktemp("r") / "rankings.jsonl"
    write_rankings(some, path)
    assert read_rankings(path) == tuple(some)


def test_the_blank_parts_relevant_from_irrelevant_images():
    ranking = Ranking(id="1", images=("a", "b", "c"), blank=1)
    assert (ranking.relevant, ranking.irrelevant) == (("a",), ("b", "c"))


def test_ids_that_are_numbers_are_read_as_texts_and_sources_default_to_unstated(tmp_path):
    path = write(tmp_path / "r.jsonl", {"id": 5302, "images": ["a"], "blank": 0})
    assert read_rankings(path) == (Ranking(id="5302", images=("a",), blank=0, source="unstated"),)


def test_every_fault_is_listed_at_once(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [
        '{"id": "1", "images": ["a", "b"], "blank": 1}',
        "not json",
        '["a"]',
        '{"id": "2", "images": ["a"]}',
        '{"id": "3", "images": [], "blank": 0}',
        '{"id": "4", "images": ["a", "a"], "blank": 0}',
        '{"id": "5", "images": ["a"], "blank": 2}',
        '{"id": "6", "images": ["a"], "blank": -1}',
        '{"id": "", "images": "a.jpg", "blank": true}',
        '{"id": "7", "images": ["a"], "blank": 0, "blnk": 1}',
        '{"id": "8", "images": ["a"], "blank": 0, "split": 3}',
        '{"id": "1", "images": ["b"], "blank": 1}',
    ]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError) as caught:
        read_rankings(path)
    faults = "\n".join(caught.value.faults)
    for wanted in (
        ":2: not JSON",
        ":3: not a JSON object",
        ":4: 'blank' is missing",
        ":5: the ranking is empty",
        ":6: images are listed more than once: a",
        ":7: 'blank' is 2; with 1 images it must be 0 to 1",
        ":8: 'blank' is -1",
        ":9: 'id' is ''",
        ":9: 'images' is 'a.jpg'",
        ":9: 'blank' is True",
        ":10: unknown key 'blnk'",
        ":11: 'split' is 3",
        ":12: post '1' is ranked twice",
    ):
        assert wanted in faults
    assert "14 faults" not in str(caught.value)
    assert len(caught.value.faults) == 13


def test_several_people_may_rank_a_post(tmp_path):
    record = {"id": "1", "images": ["a"], "blank": 1}
    path = write(tmp_path / "r.jsonl", record | {"annotator": "x"}, record | {"annotator": "y"})
    assert [ranking.annotator for ranking in read_rankings(path)] == ["x", "y"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_a_ranking_is_refused(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"r\.jsonl"):
        read_rankings(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read"):
        read_rankings(tmp_path / "absent.jsonl")


def test_nothing_is_half_written(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    write_rankings([Ranking(id="1", images=("a",), blank=0)], path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_rankings([Ranking(id="2", images=("a",), blank=0)], path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["r.jsonl"]


def test_rankings_that_could_not_be_read_back_are_not_written(tmp_path):
    path = tmp_path / "r.jsonl"
    odd = [Ranking(id="1", images=(), blank=0), Ranking(id="2", images=("a",), blank=4)]
    with pytest.raises(DataError) as caught:
        write_rankings(odd, path)
    assert len(caught.value.faults) == 2
    assert not path.exists()


def test_sources_are_counted():
    some = [Ranking(id=str(n), images=("a",), blank=0, source="proxy") for n in range(3)]
    assert count_sources([*some, Ranking(id="9", images=("a",), blank=0, source="human")]) == {
        "human": 1,
        "proxy": 3,
    }
