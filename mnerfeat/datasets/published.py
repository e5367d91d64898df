"""Published figures of the field's data sets, by which they are recognised.

Twitter-2015 and Twitter-2017: as counted in the files that circulate. MNER-MI and MNER-MI-Plus:
table 1 of the GIFR and IQCR-MI papers, after Huang et al. 2024. CMNER: Ji et al. 2024, without
images, whose number depends on how many were downloaded. Entities are counted by `B-` tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mnerfeat.datasets.tags import TYPES

ENOUGH = 0.5
"""Minimum share of a data set's figures that must agree for it to be recognised."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure that differs from the published one.

    Attributes:
        split: train, dev or test.
        figure: posts, images, or an entity type.
        found: The count.
        published: The published figure.
    """

    split: str
    figure: str
    found: int
    published: int


_Row = tuple[int, int, int]


def _table(posts: _Row, images: _Row | None, *types: _Row) -> dict[str, dict[str, int]]:
    rows = {"posts": posts, **dict(zip(TYPES, types, strict=True))}
    rows |= {"images": images} if images else {}
    return {
        split: {figure: row[column] for figure, row in rows.items()}
        for column, split in enumerate(("train", "dev", "test"))
    }


PUBLISHED: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "Twitter-2015": _table(
        (4000, 1000, 3257),
        (4000, 1000, 3257),
        (2217, 552, 1816),
        (2091, 522, 1697),
        (927, 247, 839),
        (931, 220, 720),
    ),
    "Twitter-2017": _table(
        (3373, 723, 723),
        (3373, 723, 723),
        (2943, 626, 621),
        (731, 173, 178),
        (1674, 375, 395),
        (701, 150, 157),
    ),
    "MNER-MI": _table(
        (6856, 860, 860),
        (19188, 2438, 2395),
        (4529, 573, 439),
        (1878, 210, 156),
        (1273, 165, 92),
        (2054, 260, 233),
    ),
    "MNER-MI-Plus": _table(
        (10229, 1583, 1583),
        (22561, 3161, 3118),
        (7472, 1199, 1060),
        (2609, 383, 334),
        (2947, 540, 487),
        (2755, 410, 390),
    ),
    "CMNER": _table(
        (3000, 1000, 1000),
        None,
        (3814, 1313, 1287),
        (4760, 1546, 1605),
        (6045, 1942, 1863),
        (1754, 594, 522),
    ),
}
"""By data set, split and figure (posts, the four types, images)."""


def recognise(
    counts: Mapping[str, Mapping[str, int]],
) -> tuple[str | None, tuple[Difference, ...]]:
    """Find the published data set whose figures agree best with the counts.

    Args:
        counts: By split (any of train, dev, test) and figure; unpublished figures are ignored.

    Returns:
        Its name and the figures that differ; None and nothing if fewer than `ENOUGH` of the
        splits' figures agree with any data set.
    """
    best: tuple[float, str] = (0.0, "")
    for name, table in PUBLISHED.items():
        cells = [
            counts[split].get(figure, 0) == number
            for split in counts.keys() & table.keys()
            for figure, number in table[split].items()
        ]
        best = max(best, (sum(cells) / max(len(cells), 1), name))
    share, name = best
    if share < ENOUGH:
        return None, ()
    return name, tuple(
        Difference(split=split, figure=figure, found=found, published=number)
        for split, figures in PUBLISHED[name].items()
        if split in counts
        for figure, number in figures.items()
        if (found := counts[split].get(figure, 0)) != number
    )
