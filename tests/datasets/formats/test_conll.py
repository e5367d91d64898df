import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets import Post, read_folder
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import DataError
from tests.datasets.formats.files import read


def read_conll(path: Path, *, labelled: bool = True) -> tuple[Post, ...]:
    return read(path, "conll", labelled=labelled)


ODD_WORDS = [
    "\xa0",  # a no-break space alone
    "\ufe0f",  # a variation selector alone
    "\u200b",
    "\u200d",
    "\xad",
    "\x85",  # C1; str.splitlines would end the line here
    "\x92",
    "\x0b",
    "\x0c",
    "\x1c",
    "\u2028",
    "\u3000",
    "\ufffd",
    "\ufeff",
    "🏽",  # an emoji modifier split from its emoji
    "&amp",
    "",
    " ",
    "IMGID:7",
    "New York",
    "#",
]

words = st.one_of(
    st.sampled_from(ODD_WORDS),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\t"), max_size=6),
)
ids = st.text(st.characters(codec="ascii", categories=["L", "N", "Pc"]), min_size=1, max_size=6)


@st.composite
def posts(draw: st.DrawFn) -> list[Post]:
    found = []
    for name in draw(st.lists(ids, unique=True, min_size=1, max_size=5)):
        text = draw(st.lists(words, min_size=1, max_size=5))
        tags = draw(
            st.lists(st.sampled_from(TagSet().tags), min_size=len(text), max_size=len(text))
        )
        found.append(Post(id=name, words=tuple(text), tags=tuple(tags), images=(f"{name}.jpg",)))
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conll") / "train.txt"


@given(
    expected=posts(),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    last=st.sampled_from(["", "\n", "\n\n", "\n\n\n"]),
    data=st.data(),
)
def test_posts_are_read_back_whatever_the_files_habits(
    scratch: Path, expected: list[Post], end: str, mark: str, last: str, data: st.DataObject
) -> None:
    gaps = st.sampled_from(["\n", "\n\n", "\n\n\n", "\n \n", "\n\t\n"])
    text = ""
    for number, post in enumerate(expected):
        text += data.draw(gaps) if number else ""
        text += f"IMGID:{post.id}"
        text += data.draw(st.sampled_from(["\n", "\n\n", " \n"]))
        text += "\n".join(f"{w}\t{t}" for w, t in zip(post.words, post.tags or (), strict=True))
    scratch.write_bytes((mark + text + last).replace("\n", end).encode())
    assert list(read_conll(scratch)) == expected


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_the_last_post_needs_no_line_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\na\tO\n\nIMGID:2\nb\tB-PER")
    assert [post.words for post in read_conll(path)] == [("a",), ("b",)]


def test_one_space_may_stand_for_the_tab(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\nParis B-LOC\n\xa0 O\n")
    (post,) = read_conll(path)
    assert post.words == ("Paris", "\xa0")
    assert post.tags == ("B-LOC", "O")


def test_spaces_around_a_tag_are_no_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\na\t B-PER \nb\tO\t\n")
    assert read_conll(path)[0].tags == ("B-PER", "O")


def test_a_line_of_odd_white_space_is_no_blank_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\na\tO\n\xa0\nb\tO\n")
    with pytest.raises(DataError) as caught:
        read_conll(path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}:3: 1 columns in '\\xa0'")


def test_tags_are_renamed_to_those_of_the_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\na\tB-OTHER\nb\tI-OTHER\n")
    assert read_conll(path)[0].tags == ("B-MISC", "I-MISC")


def test_repeated_ids_are_numbered_and_keep_their_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path / "a.txt", "".join(f"IMGID:{i}\na\tO\n\n" for i in ("1", "1", "1#2", "1"))
    )
    with caplog.at_level(logging.WARNING):
        found = read_conll(path)
    assert [post.id for post in found] == ["1", "1#3", "1#2", "1#4"]
    assert [post.images for post in found] == [("1.jpg",), ("1.jpg",), ("1#2.jpg",), ("1.jpg",)]
    assert "2 posts have the id of an earlier post" in caplog.text


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    lines = [
        b"stray\tO",
        b"second stray\tO",
        b"",
        b"IMGID:1",
        b"fine\tO",
        b"untagged",
        b"a\tB-PER\textra",
        b"b\tS-PER",
        b"latin \xe9\tO",
        b"",
        b"IMGID:2",
        b"",
        b"IMGID:",
        b"c\tO",
        b"",
        b"later stray\tO",
    ]
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_conll(path)
    faults = caught.value.faults
    assert {fault.split(": ")[0] for fault in faults} == {
        f"{path}:{number}" for number in (1, 6, 7, 8, 9, 11, 13, 16)
    }
    assert len(faults) == 8
    assert "8 faults" in str(caught.value)
    assert "IMGID:2 has no words" in str(caught.value)
    assert "0xe9" in str(caught.value)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_conll(tmp_path / "none.txt")


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("IMGID:1\na\tO\n".encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16; wanted UTF-8"):
        read_conll(path)


@pytest.mark.parametrize("name", ["twitter2015", "twitter2017"])
def test_real_files_are_read_whole(shared: Path, name: str) -> None:
    for split in read_folder(shared / "data" / name):
        lines = split.path.read_bytes().decode().split("\n")
        pairs = [tuple(line.split("\t")) for line in lines if "\t" in line]
        assert [word for post in split.posts for word in post.words] == [word for word, _ in pairs]
        tags = [tag.replace("OTHER", "MISC") for _, tag in pairs]
        assert [tag for post in split.posts for tag in post.tags or ()] == tags
        starts = [line.removeprefix("IMGID:") for line in lines if line.startswith("IMGID:")]
        assert [post.id for post in split.posts] == starts
        assert [post.images for post in split.posts] == [(f"{name}.jpg",) for name in starts]


def test_a_no_break_space_is_a_word_of_real_data(shared: Path) -> None:
    data = read_folder(shared / "data" / "twitter2015", ["dev"])
    assert sum(post.words.count("\xa0") for post in data["dev"].posts) == 1


def test_a_post_may_name_several_images_or_none(tmp_path: Path) -> None:
    text = "IMGID:1\nIMAGE:1 a.jpg\nIMAGE:b/2.jpg\na\tO\n\nIMGID:2\nIMAGE:\nIMAGE:x\tO\n"
    assert read_conll(write(tmp_path / "a.txt", text)) == (
        Post(id="1", words=("a",), tags=("O",), images=("1 a.jpg", "b/2.jpg")),
        Post(id="2", words=("IMAGE:x",), tags=("O",)),
    )


def test_posts_without_labels_have_a_word_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\nParis\nwins\n\nIMGID:2\n\xa0\n\nIMGID:3\na\tB-PER\n")
    assert read_conll(path, labelled=False) == (
        Post(id="1", words=("Paris", "wins"), images=("1.jpg",)),
        Post(id="2", words=("\xa0",), images=("2.jpg",)),
        Post(id="3", words=("a",), tags=("B-PER",), images=("3.jpg",)),
    )
    with pytest.raises(DataError, match="1 columns in 'Paris'"):
        read_conll(path)
    mixed = write(tmp_path / "b.txt", "IMGID:1\na\tO\nb\n")
    with pytest.raises(DataError, match=r"b.txt:3: 1 columns in 'b'"):
        read_conll(mixed, labelled=False)


def test_a_post_without_words_is_unlabelled_and_has_an_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "IMGID:1\n\nIMGID:2\na\n")
    assert read_conll(path, labelled=False)[0] == Post(id="1", words=(), images=("1.jpg",))
    with pytest.raises(DataError, match="IMGID:1 has no words"):
        read_conll(path)
    alone = write(tmp_path / "b.txt", "IMGID:1\nIMAGE:\n\nIMGID:2\na\n")
    with pytest.raises(DataError, match="IMGID:1 has no words"):
        read_conll(alone, labelled=False)
