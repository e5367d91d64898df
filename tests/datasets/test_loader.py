import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets import Post, fingerprint, read_folder, read_posts, read_split
from mnerfeat.datasets.loader import find_splits
from mnerfeat.errors import ConfigError, DataError

CONLL = "IMGID:1\nBob\tB-PER\n\n"
JSON = '{"id": "1", "text": ["Bob"], "images": ["1.jpg"], "label": ["B-PER"]}\n'
BOB = Post(id="1", words=("Bob",), tags=("B-PER",), images=("1.jpg",))


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> dict[str, str]:
    return {split: path.name for split, path in find_splits(folder).items()}


@pytest.mark.parametrize("stem", ["dev", "valid", "val", "Valid", "MNER-MI_val", "mner-uni_dev"])
@pytest.mark.parametrize("suffix", [".txt", ".json", ".jsonl", ".conll", ".TXT"])
@pytest.mark.parametrize("asked", ["dev", "valid", "val", "DEV"])
def test_dev_is_found_under_all_its_names(
    tmp_path: Path, stem: str, suffix: str, asked: str
) -> None:
    fill(tmp_path, **{f"{stem}{suffix}": JSON, "notes.txt": "x", "data_UNI.txt": "x", "train": "x"})
    split = read_split(tmp_path, asked)
    assert (split.name, split.posts) == ("dev", (BOB,))


@pytest.mark.parametrize("text", [CONLL, JSON, "\n\n" + CONLL, "\ufeff" + JSON, CONLL * 1 + "\n\n"])
@pytest.mark.parametrize("suffix", [".txt", ".json", ".conll"])
def test_the_format_is_told_from_the_content(tmp_path: Path, text: str, suffix: str) -> None:
    fill(tmp_path, **{f"test{suffix}": text})
    assert read_split(tmp_path, "test").posts == (BOB,)


def test_splits_are_listed_in_order(tmp_path: Path) -> None:
    fill(tmp_path, **{"test.txt": JSON, "valid.txt": JSON, "train.txt": JSON})
    assert list(find_splits(tmp_path)) == ["train", "dev", "test"]
    assert [split.name for split in read_folder(tmp_path)] == ["train", "dev", "test"]


def test_a_prefix_picks_one_of_several_data_sets(tmp_path: Path) -> None:
    fill(
        tmp_path,
        **{"MNER-MI_train.txt": JSON, "MNER-UNI_train.txt": JSON * 2, "mine.train.jsonl": JSON * 3},
    )
    with pytest.raises(DataError, match="holds more than one data set") as caught:
        find_splits(tmp_path)
    assert f"{tmp_path}/MNER-MI or {tmp_path}/MNER-UNI" in str(caught.value)
    assert names(tmp_path / "MNER-MI") == {"train": "MNER-MI_train.txt"}
    assert len(read_split(tmp_path / "MNER-UNI", "train").posts) == 2
    assert len(read_split(tmp_path / "mine", "train").posts) == 3


def test_two_files_for_a_split_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, **{"dev.txt": JSON, "valid.txt": JSON, "test.txt": JSON, "test.json": JSON})
    with pytest.raises(DataError) as caught:
        read_split(tmp_path, "train")
    assert caught.value.faults == ("dev: dev.txt, valid.txt", "test: test.json, test.txt")


def test_a_missing_split_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (fill(tmp_path, **{"train.txt": JSON, "readme.md": ""}) / "images").mkdir()
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path)
    message = str(caught.value)
    assert "no dev and no test split" in message
    assert "looked for dev: dev | valid | val" in message
    assert "there is: images/, readme.md, train.txt" in message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path / "none" / "deeper"):
        with pytest.raises(DataError, match="none") as caught:
            read_folder(folder)
        assert caught.value.hint


def test_an_unknown_split_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tset'; choose from: train, dev, test"):
        read_split(tmp_path, "tset")


def test_faults_of_all_splits_are_reported_at_once(tmp_path: Path) -> None:
    fill(
        tmp_path,
        **{
            "train.txt": CONLL + "IMGID:2\nbad\n",
            "dev.txt": "EU\tB-ORG\n",
            "test.txt": "\n \n",
        },
    )
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path)
    train, dev, test = caught.value.faults
    assert train.startswith(f"{tmp_path}/train.txt:5: ")
    assert dev.startswith(f"{tmp_path}/dev.txt:1: begins with")
    assert test == f"{tmp_path}/test.txt:1: the file is empty"


def test_a_fault_before_the_first_post_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(b"\xff\xff\xff\n" + CONLL.encode())
    with pytest.raises(DataError) as caught:
        read_split(tmp_path, "test")
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path}/test.txt:1: not UTF-8")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match=r"faults? in the posts' files"):
        read_split(tmp_path, "test")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "test.txt"


@given(
    st.sampled_from([b"", b"IMGID:", b"IMGID:1\n", b"{", b'{"id": 1, "text": ', b"\xef\xbb\xbf{'"]),
    st.binary(max_size=60) | st.text("IMGD:{}[]\"',\t\n\r OB-PER1", max_size=60).map(str.encode),
)
def test_any_bytes_end_in_posts_or_in_our_error(scratch: Path, head: bytes, tail: bytes) -> None:
    scratch.write_bytes(head + tail)
    try:
        posts = read_posts(scratch)
    except DataError as error:
        assert error.faults or "UTF-16" in error.what  # noqa: PT017  (posts are as good)
    else:
        assert all(post.words or post.images for post in posts)
        assert len({post.id for post in posts}) == len(posts)


def test_the_fingerprint_is_of_the_posts_and_not_of_the_file(tmp_path: Path) -> None:
    same = [
        fill(tmp_path / "a", **{"test.txt": CONLL}),
        fill(tmp_path / "b", **{"test.txt": JSON}),
        fill(tmp_path / "c", **{"test.txt": CONLL.replace("PER", "PERSON").replace("\n", "\r\n")}),
    ]
    (one,) = {read_split(folder, "test").fingerprint for folder in same}
    assert len(one) == 64
    others = [
        Post(id="2", words=BOB.words, tags=BOB.tags, images=BOB.images),
        Post(id="1", words=("Rob",), tags=BOB.tags, images=BOB.images),
        Post(id="1", words=BOB.words, tags=("B-LOC",), images=BOB.images),
        Post(id="1", words=BOB.words, tags=None, images=BOB.images),
        Post(id="1", words=BOB.words, tags=BOB.tags, images=()),
        Post(id="1", words=("B", "ob"), tags=BOB.tags, images=BOB.images),
    ]
    assert len({one, *(fingerprint([post]) for post in others)}) == 7
    assert fingerprint([BOB, others[0]]) != fingerprint([others[0], BOB])


def test_posts_of_either_format_are_read_from_a_file(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.conll": CONLL, "b.jsonl": json.dumps({"id": "1", "text": ["Bob"]})})
    assert read_posts(tmp_path / "a.conll") == (BOB,)
    assert read_posts(str(tmp_path / "b.jsonl")) == (Post(id="1", words=("Bob",)),)


def test_images_of_a_split_are_named_once(tmp_path: Path) -> None:
    lines = [{"text": ["a"], "label": ["O"], "images": names} for names in (["x", "y"], ["y", "z"])]
    fill(tmp_path, **{"train.json": "\n".join(map(json.dumps, lines))})
    data = read_folder(tmp_path, ["train"])
    assert data["train"].images == ("x", "y", "z")
    assert data.tag_set.types == ("PER", "LOC", "ORG", "MISC")
