import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets import Post, read_posts, write_json_lines
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import DataError, StorageError
from tests.datasets.formats.files import read


def read_json_lines(path: Path, *, labelled: bool = True) -> tuple[Post, ...]:
    return read(path, "json", labelled=labelled)


def write(path: Path, *records: object) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    return path


def test_published_records_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "MNER-UNI_train.txt",
        {
            "id": 5302,
            "text": ["lunch", "with", "Jae"],
            "images": ["5302_0.jpg", "5302_1.jpg"],
            "label": ["O", "O", "B-MIS"],
            "url": "https://example.org/1",
        },
        {
            "id": "twitter2017-O_538",
            "text": ["Ryan", "Newman"],
            "images": ["twitter2017-O_538.jpg"],
            "label": ["B-PER", "I-PER"],
            "url": "",
        },
    )
    assert read_json_lines(path) == (
        Post(
            id="5302",
            words=("lunch", "with", "Jae"),
            tags=("O", "O", "B-MISC"),
            images=("5302_0.jpg", "5302_1.jpg"),
        ),
        Post(
            id="twitter2017-O_538",
            words=("Ryan", "Newman"),
            tags=("B-PER", "I-PER"),
            images=("twitter2017-O_538.jpg",),
        ),
    )


def test_python_dictionaries_are_read_and_never_run(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt",
        "{'id': 1, 'text': ['it', \"d'or\"], 'images': [], 'label': ['O', 'O'], 'url': None}",
        r"{'id': 2, 'text': ['\d'], 'images': [], 'label': ['O']}",
    )
    assert [post.words for post in read_json_lines(path)] == [("it", "d'or"), (r"\d",)]
    trap = tmp_path / "trap"
    path = write(tmp_path / "b.txt", f"{{'id': 1, 'text': [open({str(trap)!r}, 'w').name]}}")
    with pytest.raises(DataError, match="not JSON"):
        read_json_lines(path)
    assert not trap.exists()


words = st.one_of(
    st.sampled_from(
        ["\xa0", "\ufe0f", "\x85", "\u2028", "\r", "\n", "\t", '"', "", "\x00", "IMGID:1"]
    ),
    st.text(max_size=6),
)


@st.composite
def posts(draw: st.DrawFn) -> list[Post]:
    found = []
    for name in draw(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=5)):
        text = tuple(draw(st.lists(words, min_size=1, max_size=5)))
        tag = st.sampled_from(TagSet().tags)
        tags = draw(st.none() | st.lists(tag, min_size=len(text), max_size=len(text)).map(tuple))
        image = st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
        )
        images = tuple(draw(st.lists(image, max_size=6)))
        found.append(Post(id=name, words=text, tags=tags, images=images))
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "posts.jsonl"


@given(posts())
def test_written_posts_are_read_back(scratch: Path, expected: list[Post]) -> None:
    write_json_lines(expected, scratch)
    assert list(read_json_lines(scratch, labelled=False)) == expected
    assert [path.name for path in scratch.parent.iterdir()] == [scratch.name]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    fine = {"id": 1, "text": ["a"], "label": ["O"], "images": []}
    path = write(
        tmp_path / "a.jsonl",
        fine,
        "{not json",
        {**fine, "text": ["a", "b"]},
        {**fine, "label": ["B"]},
        {**fine, "label": None},
        "",
        {**fine, "text": []},
        {**fine, "text": "a string"},
        {**fine, "text": ["a", 2016]},
        {**fine, "id": True},
        {**fine, "id": ""},
        {**fine, "images": "a.jpg"},
        {**fine, "images": ["a.jpg", ""]},
        {**{k: v for k, v in fine.items() if k != "images"}, "image": "a.jpg"},
        {"id": 1.5, "text": None, "label": 3, "images": 4},
        "[1, 2]",
        "[" * 100_000,
        '{"id": ' + "1" * 10_000 + "}",
    )
    with pytest.raises(DataError) as caught:
        read_json_lines(path)
    lines = [int(fault.removeprefix(f"{path}:").split(":")[0]) for fault in caught.value.faults]
    assert sorted(set(lines)) == [2, 3, 4, 5, *range(7, 19)]
    assert lines.count(15) == 4
    assert all(len(fault) < 400 for fault in caught.value.faults)


def test_repeated_and_absent_ids_are_made_unique(tmp_path: Path) -> None:
    post = {"text": ["a"], "label": ["O"], "images": ["x.jpg"]}
    path = write(tmp_path / "a.jsonl", {**post, "id": 2}, post, {**post, "id": "2"})
    assert [p.id for p in read_json_lines(path)] == ["2", "2#2", "2#3"]


def test_unlabelled_posts_may_be_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Don't miss #Rio, @bob!", "images": ["a/b.png"]})
    assert read_posts(path) == (
        Post(
            id="1",
            words=("Don", "'", "t", "miss", "#Rio", ",", "@bob", "!"),
            images=("a/b.png",),
        ),
    )
    with pytest.raises(DataError, match="no 'label'"):
        read_json_lines(path)


def test_labels_need_a_list_of_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "two words", "label": ["O", "O"]})
    with pytest.raises(DataError, match="'text' is 'two words'; wanted a list of words"):
        read_posts(path)


def test_written_text_can_be_read_by_people(tmp_path: Path) -> None:
    write_json_lines([Post(id="1", words=("café", "😀"))], tmp_path / "a.jsonl")
    assert "café" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", " \u2028\xa0 "])
def test_an_unlabelled_post_needs_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="the post has no words"):
        read_posts(write(tmp_path / "a.jsonl", {"text": text}))


def test_halves_of_surrogate_pairs_are_replaced_and_pairs_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", r'{"id": 1, "text": ["\ud83d", "\ud83d\ude00", "x"]}')
    (post,) = read_posts(path)
    assert post.words == ("\ufffd", "😀", "x")


def test_posts_that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("older", encoding="utf-8")
    fine = Post(id="1", words=("a",), tags=("O",))
    faulty = [
        fine,
        Post(id="1", words=("b",)),
        Post(id="2", words=()),
        Post(id="3", words=("a",), tags=("O", "O")),
        Post(id="4", words=("a",), tags=("B-OTHER",)),
        Post(id="5", words=("\ud800",)),
        Post(id="6", words=("a",), images=("",)),
    ]
    with pytest.raises(DataError) as caught:
        write_json_lines(faulty, path)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        f"post '{name}'" for name in (1, 2, 3, 4, 5, 6)
    ]
    assert path.read_text(encoding="utf-8") == "older"


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    post = Post(id="1", words=("a",))
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "none" / "a.jsonl", tmp_path / "taken"):
        with pytest.raises(StorageError, match="cannot be written"):
            write_json_lines([post], path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    "line",
    [
        '{"text":["Kawhi" "Leonard","wins"]}',
        "{'text': ['Kawhi' 'Leonard', 'wins']}",
        "{'text': ['Kawhi' \"Leonard\", 'wins'], 'label': ['O', 'O']}",
        "{'text': ['Kawhi'\\\n'Leonard']}",
    ],
)
def test_neighbouring_strings_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"not JSON \(E.* at column \d+\)"):
        read_posts(write(tmp_path / "a.jsonl", line))


def test_a_post_without_words_is_unlabelled_and_has_an_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "", "images": ["1.jpg"]}, {"text": ["a"]})
    assert read_posts(path)[0] == Post(id="1", words=(), images=("1.jpg",))
    with pytest.raises(DataError, match="the post has no words"):
        read_json_lines(write(tmp_path / "b.jsonl", {"text": [], "label": [], "images": ["1.jpg"]}))


def test_words_of_a_string_keep_their_places_in_it(tmp_path: Path) -> None:
    (post,) = read_posts(write(tmp_path / "a.jsonl", {"text": " U.S.  AT&amp;T"}))
    assert post.raw == " U.S.  AT&amp;T"
    assert post.offsets is not None
    assert [post.raw[start:end] for start, end in post.offsets] == list(post.words)
    assert post.offsets[0] == (1, 2)
