"""Settings from a file, from `--set` and from options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from mnerfeat.config import FILE_NAME, Settings, build, field_docs, load_settings, unknown
from mnerfeat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Soup:
    """A soup."""

    salt: float = 1.0
    """Grams a litre."""

    kind: Literal["leek", "pea"] = "pea"
    """What it is made of.

    Two lines, if need be.
    """

    spoons: tuple[int, ...] = ()
    pot: Path | None = None

    def __post_init__(self) -> None:
        if self.salt < 0:
            raise ConfigError(f"salt must not be negative, got {self.salt}")


def write(folder: Path, text: str) -> Path:
    (folder / FILE_NAME).write_text(text, "utf-8")
    return folder


def test_defaults_stand_where_nothing_is_said(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


def test_options_count_more_than_set_and_set_more_than_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'cache = "a.h5"\nruns = "r"\n[train]\nepochs = 1\nseed = 2\n[head.iqcr]\nx = 1')
    settings = load_settings(
        tmp_path,
        ["train.epochs=5", "head.iqcr.x=word", "preset=tiny", "runs=s"],
        runs=Path("t"),
        cache=None,
    )
    assert settings.cache == Path("a.h5")
    assert settings.runs == Path("t")
    assert settings.preset == "tiny"
    assert settings.section("train") == {"epochs": 5, "seed": 2}
    assert settings.section("head.iqcr") == {"x": "word"}
    assert settings.section("extract") == {}


def test_all_faults_of_a_file_are_in_one_error(tmp_path: Path) -> None:
    write(tmp_path, "cach = 1\ncache = 2\ntrain = 3\n[head]\niqcr = 4")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, ["nonsense", "cache.x=1"])
    assert len(caught.value.faults) == 6
    assert "did you mean cache?" in str(caught.value)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    write(tmp_path, "cache = ")
    with pytest.raises(ConfigError, match=FILE_NAME):
        load_settings(tmp_path)


def test_a_dataclass_is_filled_and_checked() -> None:
    assert build(
        Soup, "soup", {"salt": 2, "kind": "leek"}, {"kind": None, "spoons": [1, 2]}
    ) == Soup(salt=2.0, kind="leek", spoons=(1, 2))
    assert build(Soup, "soup", {"pot": "x"}).pot == Path("x")
    with pytest.raises(ConfigError) as caught:
        build(Soup, "soup", {"salt": "much", "kind": "beet"})
    assert len(caught.value.faults) == 2
    assert "soup.salt" in str(caught.value)
    assert "'beet'" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean salt"):
        build(Soup, "soup", {"sallt": 1})
    with pytest.raises(ConfigError, match="not be negative"):
        build(Soup, "soup", {"salt": -1})


def test_docstrings_under_fields_are_found() -> None:
    docs = field_docs(Soup)
    assert docs["salt"] == "Grams a litre."
    assert docs["kind"] == "What it is made of.\n\nTwo lines, if need be."
    assert "spoons" not in docs


def test_an_unknown_name_comes_with_the_known_ones() -> None:
    message = "unknown head 'iqrc'; did you mean iqcr? choose from: gifr, iqcr"
    assert unknown("iqrc", ["gifr", "iqcr"], "head") == message
