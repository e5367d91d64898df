"""R of ranked posts taken from their rankings, as in the code of GIFR's authors."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mnerfeat.cache import FeatureCache, text_id
from mnerfeat.datasets import Post
from mnerfeat.datasets.image_rows import post_rows
from mnerfeat.datasets.pair_columns import RANKED_RELEVANCE
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import RunError
from mnerfeat.preference import read_rankings
from mnerfeat.preference.checkpoint import RANKINGS

Judgements = Mapping[tuple[bytes, bytes], float]
"""By identity of text and image: 1 if the image ranks before the blank image, 0 if after it, the
mean over several rankings."""


def read_judgements(discriminator: Path | None) -> Judgements:
    """Read the rankings that a discriminator was trained on.

    Args:
        discriminator: Folder of the discriminator, or None.

    Raises:
        RunError: There is no such folder, or its rankings do not say which files were ranked.
        DataError: The rankings cannot be read.
    """
    path = discriminator / RANKINGS if discriminator else Path(RANKINGS)
    rankings = read_rankings(path) if discriminator and path.exists() else ()
    known = [one for one in rankings if one.text_id and len(one.image_ids) == len(one.images)]
    if not known or len(known) < len(rankings):
        fault = "has no digests of texts and images" if rankings else "does not exist"
        raise RunError(
            "train.ranked_posts is 'as-ranked', which reads the rankings that the discriminator "
            f"was trained on; {path} {fault}",
            hint="train the discriminator again: mnerfeat rank train --replace",
        )
    found = defaultdict(list)
    for one in known:
        text = bytes.fromhex(one.text_id or "")
        for place, image in enumerate(one.image_ids):
            found[text, bytes.fromhex(image)].append(float(place < one.blank))
    return {pair: fmean(values) for pair, values in found.items()}


def judge_images(
    table: VisionTable, cache: FeatureCache, posts: Sequence[Post], judgements: Judgements
) -> int:
    """Replace R of ranked images in a table by what their rankings say.

    Images that are not in a ranking keep the discriminator's R.

    Args:
        table: The images of the posts, with the column of R; changed in place.
        cache: The cache that the table comes from.
        posts: The posts of the table.
        judgements: From `read_judgements`.

    Returns:
        The number of images whose R comes from a ranking.
    """
    texts = {text for text, _ in judgements}
    rows = post_rows(cache, posts).tolist()
    column = table.pair_columns[RANKED_RELEVANCE]
    judged = 0
    for number, post in enumerate(posts):
        text = text_id(post.text)
        if text not in texts:
            continue
        for slot, row in enumerate(rows[number][: len(post.images)]):
            if table.image_rows[number, slot] < 0:
                continue
            value = judgements.get((text, cache.images.ids[row].tobytes()))
            if value is not None:
                column[number, slot] = value
                judged += 1
    return judged
