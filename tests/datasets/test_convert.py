"""Conversion between formats, without loss or with an error."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mnerfeat.datasets import Post, read_folder, read_posts, write_json_lines
from mnerfeat.datasets.convert import convert
from mnerfeat.datasets.formats import FORMATS, write_posts
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import ConfigError, DataError, StorageError

words = st.one_of(
    st.sampled_from(
        ["\xa0", "\ufe0f", "\x85", "\u2028", '"', "'", "IMGID:1", "IMAGE:a", "WID:2", ","]
    ),
    st.sampled_from(["", "\r", "\n", "\t", "a b", ";", "B-PER", "{", "#", "id"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)


@st.composite
def posts(draw: st.DrawFn) -> list[Post]:
    found = []
    labelled = draw(st.booleans())
    for name in draw(st.lists(names, unique=True, min_size=1, max_size=4)):
        text = tuple(draw(st.lists(words, min_size=1, max_size=5)))
        tag = st.sampled_from(TagSet().tags)
        tags = tuple(draw(st.lists(tag, min_size=len(text), max_size=len(text))))
        images = tuple(draw(st.lists(names, max_size=3)))
        found.append(Post(id=name, words=text, tags=tags if labelled else None, images=images))
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("convert")


@given(posts(), st.sampled_from(["json", "conll", "csv", "tsv"]))
def test_what_can_be_written_is_read_back_and_the_rest_is_named(
    scratch: Path, expected: list[Post], name: str
) -> None:
    path = scratch / f"posts{FORMATS[name].suffix}"
    path.unlink(missing_ok=True)
    try:
        write_posts(expected, path, FORMATS[name])
    except DataError as error:
        assert name != "json"
        assert error.faults  # noqa: PT017 - files without faults are as good
        assert not path.exists()
        plain = [post for post in expected if f"post {post.id!r}: " not in "".join(error.faults)]
        assume(plain and len(plain) < len(expected))
        write_posts(plain, path, FORMATS[name])
        expected = plain
    assert list(read_posts(path)) == expected


plain_word = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=4)
plain_name = st.text("abc019", min_size=1, max_size=4)


@given(st.data())
def test_posts_go_round_through_every_format_without_loss(
    scratch: Path, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(plain_name, unique=True, min_size=1, max_size=4))
    expected = []
    for id_ in ids:
        text = tuple(data.draw(st.lists(plain_word, min_size=1, max_size=5)))
        tag = st.sampled_from(TagSet(("PER", "song")).tags)
        tags = tuple(data.draw(st.lists(tag, min_size=len(text), max_size=len(text))))
        ends = sorted(data.draw(st.lists(plain_name, unique=True, max_size=3)))
        images = tuple(f"{id_}_{end}.jpg" for end in ends)
        expected.append(Post(id=id_, words=text, tags=tags, images=images))
    folder = scratch / "round"
    images_folder = scratch / "images_of_round"
    for stale in images_folder.glob("*"):
        stale.unlink()
    for post in expected:
        for name in post.images:
            images_folder.mkdir(exist_ok=True)
            (images_folder / name).touch()
    folder.mkdir(exist_ok=True)
    start = folder / "start.jsonl"
    write_json_lines(expected, start)
    source = start
    for number, name in enumerate(data.draw(st.permutations(sorted(FORMATS)))):
        target = folder / f"{number}{FORMATS[name].suffix}"
        any_image = name == "cmner" and any(post.images for post in expected)
        convert(source, target, to=name, overwrite=True)
        if name == "cmner" and any_image:  # the only format that does not name images
            back = folder / f"{number}-named.jsonl"
            convert(target, back, images=[images_folder], overwrite=True)
            target = back
        source = target
    end = folder / "end.jsonl"
    convert(source, end, overwrite=True)
    assert end.read_bytes() == start.read_bytes()


def test_wrong_options_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("IMGID:1\nBob\tB-PER\n\nIMGID:1\na\tO\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="does not say which format it is"):
        convert(path, tmp_path / "out")
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        convert(path, tmp_path / "out.csv", images=[tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"no file in .*empty is named <id>_\*"):
        convert(path, tmp_path / "out.csv", images=[tmp_path / "empty"])
    with pytest.raises(DataError, match="no train, dev or test split"):
        convert(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(StorageError, match="exist already"):
        convert(path, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "empty"]


def test_posts_that_share_an_id_share_its_images(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("IMGID:1\na\tO\n\nIMGID:1\nb\tO\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1_0.jpg").touch()
    convert(path, tmp_path / "out.csv", images=[tmp_path / "images"])
    assert [post.images for post in read_posts(tmp_path / "out.csv")] == [("1_0.jpg",)] * 2


@pytest.mark.parametrize("name", ["json", "conll", "csv"])
@pytest.mark.parametrize("data", ["twitter2015", "twitter2017", "cmner"])
def test_published_data_survive_every_format(
    shared: Path, tmp_path: Path, data: str, name: str
) -> None:
    source = read_folder(shared / "data" / data)
    convert(shared / "data" / data, tmp_path / "there", to=name)
    back = read_folder(tmp_path / "there")
    assert [split.fingerprint for split in back] == [split.fingerprint for split in source]
