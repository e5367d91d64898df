"""Every option of a head and of its training stands in a list beside its paper's."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from mnerfeat.heads.gifr import Gifr
from mnerfeat.heads.iqcr import Iqcr
from mnerfeat.heads.text_only import TextOnly
from mnerfeat.preference import Discriminator, RankConfig
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.training import TrainingConfig

DOCS = Path(__file__).parents[2] / "docs"

DIFFERS = "Differs from the paper"
HEADINGS = (DIFFERS, "Not stated in the paper", "As in the authors' code", "As in the paper")


def docstring(kind: type) -> str:
    return inspect.getdoc(kind) or ""


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


TEXTS = {
    "dpe": page("dpe.md"),
    "iterative": page("dpe.md"),
    "gifr": docstring(Gifr),
    "iqcr": docstring(Iqcr),
    "text": docstring(TextOnly),
}
"""By head, the text that has its lists."""


def read_lists(text: str) -> dict[str, str]:
    """Return the list below each of `HEADINGS` in a docstring or page."""
    found: dict[str, str] = {}
    heading = None
    for line in text.splitlines():
        title = next((each for each in HEADINGS if line.lstrip("# ").startswith(each)), None)
        if title and title not in found and line.startswith(("#", title)):
            heading, found[title] = title, ""
        elif heading and (line.startswith(("- ", "  ")) or not line):
            found[heading] += f"{line}\n"
        elif line.startswith("#") or (heading and found[heading].strip()):
            heading = None
    return found


def named(text: str) -> set[str]:
    """Return the options that a text names in backticks: `pooling` for `text.pooling`."""
    names = (re.match(r"[\w.]+", code) for code in re.findall(r"`([^`]+)`", text))
    return {name[0].split(".")[-1] for name in names if name}


def options(kind: type) -> set[str]:
    return {field.name for field in fields(kind) if field.init}


@pytest.mark.parametrize("head", HEADS)
def test_every_option_of_a_head_stands_in_one_of_its_lists(head: str) -> None:
    lists = read_lists(TEXTS[head])
    assert {DIFFERS, "Not stated in the paper"} <= set(lists)
    assert all("- " in each for each in lists.values())
    assert options(HEADS[head]) - named("".join(lists.values())) == set()


@pytest.mark.parametrize("head", [name for name, kind in HEADS.items() if kind().columns])
def test_heads_that_read_images_say_that_the_image_encoders_are_frozen(head: str) -> None:
    assert re.search(r"image encoders\W.*\bfrozen", read_lists(TEXTS[head])[DIFFERS], re.I | re.S)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_says_that_it_is_trained_at_several_rates(head: str) -> None:
    differs = read_lists(TEXTS[head])[DIFFERS]
    assert "learning rate" in differs
    assert "training.md" in differs


def test_every_option_of_training_is_compared_with_the_papers() -> None:
    section = page("training.md").split("## Compared with the papers\n")[1].split("\n## ")[0]
    wanted = {f"train.{name}" for name in options(TrainingConfig)}
    wanted |= {f"text.{name}" for name in options(TextConfig)}
    assert wanted - set(re.findall(r"`([\w.]+)`", section)) == set()


def test_the_defaults_in_that_comparison_are_those_of_training() -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in page("training.md").splitlines()
        if re.match(r"\| `(train|text)\.", line)
    ]
    defaults = {f"train.{field.name}": field.default for field in fields(TrainingConfig)}
    shown = {re.split(r"[`,]", row[0])[0]: row[1] for row in rows}
    numbers = {name: re.search(r"[\d.e-]*\d", text) for name, text in shown.items()}
    compared = {
        name: float(number[0]) for name, number in numbers.items() if number and name in defaults
    }
    assert len(compared) >= 9
    assert compared == {name: defaults[name] for name in compared}


def test_every_option_of_the_discriminator_stands_in_one_of_its_lists() -> None:
    lists = "".join(read_lists(docstring(Discriminator)).values())
    chance_and_speed = {"seed", "device"}
    assert options(RankConfig) - chance_and_speed - named(lists) == set()


def test_a_list_that_lacks_an_option_is_noticed() -> None:
    whole = "".join(read_lists(TEXTS["iqcr"]).values())
    assert "renormalise" in named(whole)
    assert "renormalise" not in named(whole.replace("`renormalise`", "renormalise"))
