import pytest

from mnerfeat.datasets.published import PUBLISHED, Difference, recognise
from mnerfeat.datasets.tags import TYPES


def test_mner_mi_plus_is_mner_mi_and_twitter_2017() -> None:
    for split, figures in PUBLISHED["MNER-MI-Plus"].items():
        parts = [PUBLISHED[name][split] for name in ("MNER-MI", "Twitter-2017")]
        for figure in ("posts", "images", *TYPES):
            assert figures[figure] == sum(part[figure] for part in parts)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("splits", [["train", "dev", "test"], ["dev"]])
def test_every_published_data_set_is_recognised(name: str, splits: list[str]) -> None:
    assert recognise({split: PUBLISHED[name][split] for split in splits}) == (name, ())


def test_differences_are_shown() -> None:
    counts = {"test": {**PUBLISHED["Twitter-2015"]["test"], "LOC": 1690}, "dev": {}}
    counts["dev"] = dict(PUBLISHED["Twitter-2015"]["dev"])
    assert recognise(counts) == (
        "Twitter-2015",
        (Difference(split="test", figure="LOC", found=1690, published=1697),),
    )


def test_other_data_are_not_recognised() -> None:
    assert recognise({"train": {"posts": 10, "PER": 3, "images": 10}}) == (None, ())
    assert recognise({}) == (None, ())
