"""`mnerfeat cache …`, as people type it."""

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    pack,
    stack_ids,
    text_id,
    verify,
)
from tests.cache.builders import feature, images, put_numbered
from tests.cache.test_golden import GOLDEN
from tests.cli.conftest import Program

CACHE = Path("features.h5")
COMMANDS = ("info", "verify", "repair", "merge", "export", "prune", "pack", "migrate", "import")


def damage(path: Path, name: str) -> None:
    """Change one number of an image's row."""
    (row,) = FeatureCache(path).rows([name])
    with h5py.File(path) as file:
        data = file["images/vit_cls/data"]
        offset = data.id.get_offset() + int(row) * data.dtype.itemsize * data.shape[1]
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(program: Program, command: str) -> None:
    shown = program("cache", command, "--help")
    assert shown.code == 0
    assert "[[" not in shown.out


@pytest.mark.parametrize(
    "command",
    ["info", "verify", "repair", "prune", "pack", "migrate", "merge features.h5 --out all.h5",
     "export --out x.npz"],
)  # fmt: skip
def test_a_cache_that_is_not_there_is_named(program: Program, command: str) -> None:
    result = program("cache", *command.split())
    assert result.code == 1
    assert "no feature cache at features.h5" in result.err
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == []


def test_a_damaged_cache_is_told_mended_and_sound_again(program: Program) -> None:
    put_numbered(CACHE, range(5))
    pack(CACHE)
    assert program("cache", "repair").out == "features.h5 is sound; nothing was done\n"
    damage(CACHE, "3.jpg")
    told = program("cache", "verify")
    assert told.code == 1
    assert "features.h5: 1 fault\n" in told.err
    assert "next: mnerfeat cache repair features.h5" in told.err
    mended = program("cache", "repair", "features.h5")
    assert mended.code == 0
    assert "vit_cls: 1 row dropped\n" in mended.out
    assert "next: `mnerfeat extract`" in mended.out
    assert program("cache", "verify").code == 0
    assert len(FeatureCache(CACHE).images) == 4


def test_what_cannot_be_read_at_all_is_set_aside(program: Program) -> None:
    CACHE.write_bytes(b"not HDF5")
    mended = program("cache", "repair")
    assert mended.code == 0
    assert "nothing can be read of features.h5.damaged" in mended.out
    assert Path("features.h5.damaged").read_bytes() == b"not HDF5"


def put_quality(values: list[float | str]) -> None:
    rows = [value if isinstance(value, str) else [value] for value in values]
    contents = {f"{n}.jpg": str(n).encode() for n in range(len(values))}
    CacheWriter(CACHE).put(images=images(contents, quality=feature(rows, width=1)))


def test_a_histogram_counts_every_row_once_and_a_threshold_divides_them(program: Program) -> None:
    put_quality([0.125, 0.25, 0.25, 0.5, 0.75, "broken"])
    shown = program("cache", "info", "--feature", "quality", "--threshold", "0.5")
    assert shown.code == 0, shown.err
    head, summary, *rest = shown.out.splitlines()
    assert head == "quality (images): 5 rows, 1 failed"
    assert "from 0.125 to 0.75, median 0.25, mean 0.375" in summary
    *bars, below, above = rest
    assert below.split() == ["below", "0.5", "3", "60.0%"]
    assert above.split() == ["0.5", "or", "more", "2", "40.0%"]
    counts = {line.split()[0]: int(line.split()[-2]) for line in bars}
    assert sum(counts.values()) == 5
    assert {low: count for low, count in counts.items() if count} == {
        "0.10": 1, "0.25": 2, "0.50": 1, "0.75": 1,
    }  # fmt: skip
    longest = max(bars, key=lambda line: line.count("█"))
    assert longest.split()[0] == "0.25"
    assert all("█" in line for line in bars if int(line.split()[-2]))


@pytest.mark.parametrize("values", [[0.0], [3.5] * 4, [-1e30, 1e30], [1e-30, 2e-30], [-7.0, -6.0]])
def test_any_values_have_a_histogram(program: Program, values: list[float]) -> None:
    put_quality(list(values))
    shown = program("cache", "info", "--feature", "quality")
    assert shown.code == 0, shown.err
    bars = shown.out.splitlines()[2:]
    assert 1 <= len(bars) <= 21
    assert sum(int(line.split()[-2].replace(",", "")) for line in bars) == len(values)


def test_a_feature_without_histogram_says_why(program: Program) -> None:
    put_numbered(CACHE, range(3))
    vectors = program("cache", "info", "--feature", "vit_cls")
    assert (vectors.code, "its rows are of shape (3,)" in vectors.err) == (1, True)
    unknown = program("cache", "info", "--feature", "quality")
    assert (unknown.code, "holds no feature 'quality'" in unknown.err) == (1, True)
    alone = program("cache", "info", "--threshold", "1")
    assert (alone.code, "--threshold needs --feature" in alone.err) == (2, True)
    CacheWriter(CACHE).put(images=images({"9.jpg": b"9"}, quality=feature(["broken"], width=1)))
    nothing = program("cache", "info", "--feature", "quality", "--threshold", "1", "--provenance")
    assert nothing.out.startswith("quality (images): 0 rows, 1 failed, 3 missing\n")
    assert '"model": "vit"' in nothing.out


def test_merging_counts_an_image_once(program: Program) -> None:
    put_numbered(Path("a.h5"), range(5))
    put_numbered(Path("b.h5"), range(3, 9))
    merged = program("cache", "merge", "a.h5", "b.h5", "--out", "all.h5")
    assert merged.code == 0, merged.err
    assert "a.h5: images 5" in merged.out
    assert "together in all.h5: images 9, texts 0, pairs 0, 9 names; vit_cls" in merged.out
    assert verify("all.h5") == []
    again = program("cache", "merge", "b.h5", "--out", "all.h5")
    assert again.code == 1
    assert "all.h5 exists and is not" in again.err
    assert "`mnerfeat cache merge all.h5 b.h5 --out all.h5`" in again.err


def test_merging_names_all_caches_that_are_not_there(program: Program) -> None:
    put_numbered(Path("a.h5"), range(5))
    result = program("cache", "merge", "a.h5", "b.h5", "c.h5", "--out", "all.h5")
    assert (result.code, "b.h5, c.h5" in result.err) == (1, True)


def test_merging_what_different_models_made_names_both(program: Program) -> None:
    put_numbered(Path("a.h5"), range(5))
    put_numbered(Path("b.h5"), range(5), Provenance({"model": "another"}))
    result = program("cache", "merge", "a.h5", "b.h5", "--out", "all.h5")
    assert result.code == 1
    for said in ("vit_cls model: vit in a.h5, another in b.h5", "cache prune"):
        assert said in result.err
    assert not Path("all.h5").exists()


def test_merging_keeps_names_apart_by_folders(program: Program) -> None:
    CacheWriter("a.h5").put(images=images({"1.jpg": b"a"}))
    CacheWriter("b.h5").put(images=images({"1.jpg": b"b"}))
    refused = program("cache", "merge", "a.h5", "b.h5", "--out", "all.h5")
    assert (refused.code, "--folder NAME" in refused.err) == (1, True)
    folders = ("--folder", "mine", "--folder", "yours")
    assert program("cache", "merge", "a.h5", "b.h5", "--out", "all.h5", *folders).code == 0
    assert {name for name, _ in FeatureCache("all.h5").images.names()} == {
        "mine/1.jpg", "yours/1.jpg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("out", "options", "needs"),
    [
        ("x.npz", "", "numpy"),
        ("x.safetensors", "", "safetensors"),
        ("x.parquet", "--features vit_cls", "pyarrow"),
        ("folder", "--format datasets --table images", "datasets"),
    ],
)
def test_exporting(program: Program, out: str, options: str, needs: str) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    put_numbered(CACHE, range(5))
    result = program("cache", "export", "--out", out, *options.split())
    assert result.code == 0, result.err
    assert result.out.startswith(f"{out}: ")
    assert "5 rows of images with vit_cls" in result.out
    assert Path(out).exists()


def test_exported_rows_are_those_of_the_cache(program: Program) -> None:
    put_numbered(CACHE, range(5))
    assert program("cache", "export", "features.h5", "--out", "x.npz").code == 0
    with np.load("x.npz") as exported:
        assert (exported["vit_cls"] == FeatureCache(CACHE)["vit_cls"][:]).all()


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ("export", "--out", 2),
        ("export --out x.zip", "unknown format 'zip'", 1),
        ("export --out x.npz --features vti", "no feature 'vti'", 1),
        ("export --out x.npz --table posts", "no table 'posts'", 1),
        ("merge", "CACHE", 2),
        ("merge features.h5 --out x.h5 --folder a --folder b", "1 caches to merge", 1),
        ("prune --features vti", "no feature vti", 1),
        ("prune --images nowhere", "no folder nowhere", 1),
        ("prune --posts nowhere", "nowhere", 1),
    ],
)
def test_what_cannot_be_done_is_told(
    program: Program, arguments: str, said: str, code: int
) -> None:
    put_numbered(CACHE, range(2))
    before = sorted(Path().rglob("*"))
    result = program("cache", *arguments.split())
    assert (result.code, said in result.err) == (code, True), result.err
    assert "Traceback" not in result.err
    assert sorted(Path().rglob("*")) == before


def test_pruning_says_what_it_would_do_and_does_it_when_told(program: Program) -> None:
    put_numbered(CACHE, range(4))
    CacheWriter(CACHE).put(
        texts=TableRows(
            ids=stack_ids([text_id("a b"), text_id("c")]),
            features={"clip_text": feature([[1, 1, 1], [2, 2, 2]])},
        )
    )
    folder = Path("pictures")
    folder.mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (folder / name).touch()
    Path("posts.jsonl").write_text('{"id": "1", "text": "a b", "images": []}\n')
    options = ("--images", "pictures", "--posts", "posts.jsonl")
    told = program("cache", "prune", *options)
    assert told.code == 0, told.err
    assert "would remove 1 name, 1 image, 1 text" in told.out
    assert "  0.jpg\n" in told.out
    assert "with --yes" in told.out
    assert len(FeatureCache(CACHE).images) == 4
    assert "removed 1 name" in program("cache", "prune", *options, "--yes").out
    cache = FeatureCache(CACHE)
    assert (len(cache.images), len(cache.texts)) == (3, 1)
    assert "nothing to remove" in program("cache", "prune", *options, "--yes").out
    assert program("cache", "prune", "--features", "vit_cls", "--yes").code == 0
    assert FeatureCache(CACHE).features == ["clip_text"]


def test_packing_leaves_one_file(program: Program) -> None:
    put_numbered(CACHE, range(4))
    put_numbered(CACHE, range(4, 6))
    assert "2 parts not packed" in program("cache", "info").out
    packed = program("cache", "pack")
    assert "images 6" in packed.out
    assert "parts" not in packed.out
    assert [found.name for found in Path().iterdir()] == ["features.h5"]


def test_migrating_the_present_version_does_nothing(program: Program) -> None:
    CACHE.write_bytes(GOLDEN.read_bytes())
    assert program("cache", "migrate").out == "features.h5: rewritten\n"
    before = CACHE.read_bytes()
    result = program("cache", "migrate")
    assert result.out == "features.h5 is of the present version; nothing was done\n"
    assert CACHE.read_bytes() == before
    with h5py.File(CACHE, "r+") as file:
        file.attrs["format_version"] = 99
    refused = program("cache", "migrate")
    assert (refused.code, "version 99" in refused.err) == (1, True)


def test_features_of_another_program_are_imported(program: Program) -> None:
    Path("images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Path("images", name).write_bytes(name[:1].replace("c", "a").encode())
    with h5py.File("theirs.h5", "w") as file:
        file["vit"] = np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0], [7.0, 8.0]])
        file["paths"] = ["a.jpg", "b.jpg", "c.jpg", "gone.jpg"]
    command = ("cache", "import", "theirs.h5", "--feature", "vit_cls", "--data", "vit",
               "--names", "paths", "--images", "images")  # fmt: skip
    refused = program(*command, "--provenance", "model=vit")
    assert refused.code == 1
    assert "  gone.jpg\n" in refused.err
    assert not CACHE.exists()
    assert "`--provenance model=NAME`" in program(*command).err
    done = program(*command, "--provenance", "model=vit", "--skip-missing")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "features.h5: vit_cls of 2 images (2 float32, converted from float64)",
        "  1 of them failed: their numbers are not finite",
        "  1 row left out: an earlier row is of an image with the same bytes",
        "  1 row left out, whose image is not found:",
        "    gone.jpg",
    ]
    cache = FeatureCache(CACHE)
    assert cache["vit_cls"][cache.rows(["c.jpg"])].tolist() == [[1, 2]]
    assert '"model": "vit"' in program("cache", "info", "--provenance").out
    other = program(*command, "--provenance", "model=other", "--skip-missing")
    assert other.code == 1
    assert "--replace" in other.err
