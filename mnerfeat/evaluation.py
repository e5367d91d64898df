"""Scores of predicted tags against gold tags, as the MNER literature computes them.

An entity is correct if its span and its type are; precision, recall and F1 are micro-averages
over entities, computed by `seqeval` (Nakayama 2018). Two conventions are given side by side,
because published numbers follow one of them without saying which:

- *lenient*, `seqeval`'s default and conlleval's: an `I-` without a `B-` starts an entity;
- *strict*, IOB2 (`mode="strict", scheme=IOB2`): only `B-` does.

On Twitter-2015's test split even the gold differs: 5,207 entities against 5,072.

Precision, recall and F1 are fractions in [0, 1]; they are 0 if nothing was predicted, or
there was nothing to find. Papers print them times 100.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as by_default
from seqeval.metrics.v1 import precision_recall_fscore_support as by_scheme
from seqeval.scheme import IOB2

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import (
    TYPES,
    Convention,
    canonical_tag,
    entities,
    lenient_entities,
    tags_of,
)
from mnerfeat.errors import DataError

ANY_TYPE = "X"
"""Type of all entities when only their spans are scored."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Precision, recall and F1 of some entities.

    Attributes:
        precision: Fraction of predicted entities that are correct.
        recall: Fraction of gold entities that were found.
        f1: Their harmonic mean.
        gold: Number of gold entities (the support).
        predicted: Number of predicted entities.
        correct: Number of entities in both.
    """

    precision: float
    recall: float
    f1: float
    gold: int
    predicted: int
    correct: int


@dataclass(frozen=True, kw_only=True)
class ConventionScores:
    """Scores under one convention.

    Attributes:
        convention: `lenient` or `strict`.
        overall: Micro-average over all entities.
        types: Scores by type, for types that occur in gold or predictions; PER, LOC, ORG and MISC
            come first.
        spans: Micro-average with types ignored: how well entities are found.
    """

    convention: Convention
    overall: Score
    types: Mapping[str, Score]
    spans: Score


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Predicted tags against gold tags.

    Attributes:
        posts: Number of posts.
        words: Number of words.
        lenient: Scores under the lenient convention.
        strict: Scores under strict IOB2.
    """

    posts: int
    words: int
    lenient: ConventionScores
    strict: ConventionScores

    def figures(self) -> dict[str, float]:
        """Return every precision, recall and F1 by name: `lenient/f1`, `strict/PER/recall`, ….

        Spans with types ignored are named `lenient/spans/f1`.
        """
        found: dict[str, float] = {}
        for scores in (self.lenient, self.strict):
            parts = {"": scores.overall, "spans/": scores.spans}
            parts |= {f"{kind}/": one for kind, one in scores.types.items()}
            for part, one in parts.items():
                for figure in ("precision", "recall", "f1"):
                    found[f"{scores.convention}/{part}{figure}"] = getattr(one, figure)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scores":
        """Return the scores that `as_json` wrote.

        Raises:
            DataError: The value has another form.
        """
        try:
            return cls(
                posts=value["posts"],
                words=value["words"],
                lenient=_convention_from_json(value["lenient"]),
                strict=_convention_from_json(value["strict"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"these are not scores: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Entities by what went wrong with them, under the lenient convention.

    `correct`, `wrong_type`, `wrong_span` and `spurious` add up to the predicted entities.

    Attributes:
        correct: Right span, right type.
        wrong_type: Right span, another type.
        wrong_span: Predicted entities that overlap a gold entity but have another span.
        spurious: Predicted entities that overlap no gold entity.
        missed: Gold entities that no predicted entity overlaps.
        confusions: `wrong_type` by gold type and predicted type: `{"LOC": {"ORG": 3}}`.
    """

    correct: int
    wrong_type: int
    wrong_span: int
    spurious: int
    missed: int
    confusions: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over several runs.

    Attributes:
        mean: The mean.
        sd: The sample standard deviation (n − 1), or None for a single run.
        runs: Number of runs.
    """

    mean: float
    sd: float | None
    runs: int


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Scores:
    """Score predicted tags against gold tags under both conventions.

    Args:
        gold: Canonical tags of each post (see `mnerfeat.datasets.tags`).
        predicted: Tags of the same posts and words in the same order.

    Raises:
        DataError: Posts or words differ; all such posts are listed.
    """
    _fit(gold, predicted)
    return Scores(
        posts=len(gold),
        words=sum(len(tags) for tags in gold),
        lenient=_score("lenient", gold, predicted),
        strict=_score("strict", gold, predicted),
    )


def score_by_images(
    posts: Sequence[Post], predicted: Sequence[Sequence[str]], images: Sequence[int] | None = None
) -> dict[str, Scores]:
    """Score posts without images, with one, and with several separately.

    Args:
        posts: Labelled posts.
        predicted: Tags of each post, in the same order.
        images: Number of images of each post that were used; by default those that it names.

    Returns:
        Scores by `no image`, `one image`, `several images`, if there are such posts.

    Raises:
        DataError: As `score`; or a post is not labelled.
    """
    gold = gold_tags(posts)
    _fit(gold, predicted)
    groups: dict[str, list[int]] = {"no image": [], "one image": [], "several images": []}
    names = tuple(groups)
    counts = [len(post.images) for post in posts] if images is None else images
    for index, count in enumerate(counts):
        groups[names[min(count, 2)]].append(index)
    return {
        name: score([gold[i] for i in group], [predicted[i] for i in group])
        for name, group in groups.items()
        if group
    }


def gold_tags(posts: Sequence[Post]) -> list[tuple[str, ...]]:
    """Return the tags of labelled posts.

    Raises:
        DataError: Posts are not labelled; all are listed.
    """
    unlabelled = [post.id for post in posts if post.tags is None]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled):,} of {len(posts):,} posts have no labels to score against",
            faults=[f"post {name}" for name in unlabelled],
            hint="mnerfeat predict takes posts without labels",
        )
    return [post.tags for post in posts if post.tags is not None]


def mistakes(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Mistakes:
    """Sort entities by what went wrong with them, under the lenient convention.

    Raises:
        DataError: As `score`.
    """
    _fit(gold, predicted)
    counts: Counter[str] = Counter()
    confusions: dict[str, Counter[str]] = {}
    for gold_post, predicted_post in zip(gold, predicted, strict=True):
        wanted = {(e.start, e.end): e.type for e in lenient_entities(gold_post)}
        got = {(e.start, e.end): e.type for e in lenient_entities(predicted_post)}
        for span, kind in got.items():
            if span not in wanted:
                counts["wrong_span" if _touches(span, wanted) else "spurious"] += 1
            elif wanted[span] == kind:
                counts["correct"] += 1
            else:
                counts["wrong_type"] += 1
                confusions.setdefault(wanted[span], Counter())[kind] += 1
        counts["missed"] += sum(not _touches(span, got) for span in wanted)
    return Mistakes(
        correct=counts["correct"],
        wrong_type=counts["wrong_type"],
        wrong_span=counts["wrong_span"],
        spurious=counts["spurious"],
        missed=counts["missed"],
        confusions={kind: dict(sorted(row.items())) for kind, row in sorted(confusions.items())},
    )


def mean_sd(runs: Sequence[Scores]) -> dict[str, Spread]:
    """Return mean and sample standard deviation (n − 1) of every figure over runs.

    Args:
        runs: Scores on the same posts, of one configuration with different seeds.

    Returns:
        Spreads by the names of `Scores.figures`. If a type is not in the gold and only some runs
        predict it, it counts as 0 in the others.

    Raises:
        DataError: There is no run, or the gold entities differ.
    """
    if not runs:
        raise DataError("there are no scores to average")
    golds = [_gold_counts(run) for run in runs]
    if any(gold != golds[0] for gold in golds):
        raise DataError(
            "the runs were not scored on the same posts, so they have no mean",
            faults=[f"run {number}: {gold}" for number, gold in enumerate(golds, start=1)],
        )
    figures = [run.figures() for run in runs]
    spreads = {}
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [one.get(name, 0.0) for one in figures]
        spreads[name] = Spread(
            mean=math.fsum(values) / len(values),
            sd=statistics.stdev(values) if len(values) > 1 else None,
            runs=len(values),
        )
    return spreads


def render(scores: Scores) -> str:
    """Return scores as plain text, in percent, with both conventions named."""
    lines = [f"{scores.posts:,} posts, {scores.words:,} words"]
    for one, rule in (
        (scores.lenient, "lenient (seqeval's default)"),
        (scores.strict, "strict IOB2"),
    ):
        lines += ["", f"{rule:<30}{'P':>8}{'R':>8}{'F1':>8}{'gold':>8}{'found':>8}{'right':>8}"]
        rows = {**one.types, "all": one.overall, "all, types ignored": one.spans}
        lines += [
            f"{name:<30}{100 * s.precision:8.2f}{100 * s.recall:8.2f}{100 * s.f1:8.2f}"
            f"{s.gold:8,}{s.predicted:8,}{s.correct:8,}"
            for name, s in rows.items()
        ]
    return "\n".join(lines)


def _score(
    convention: Convention, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> ConventionScores:
    counts = _counts(convention, gold, predicted)
    # seqeval lists the types that occur in either, sorted.
    per_type = zip(*_seqeval(convention, gold, predicted, average=None), strict=True)
    types = {
        kind: _as_score(figures, counts[kind])
        for kind, figures in zip(sorted(counts), per_type, strict=True)
    }
    order = (*TYPES, *sorted(types.keys() - set(TYPES)))
    bare_gold = [_untyped(tags, convention) for tags in gold]
    bare_predicted = [_untyped(tags, convention) for tags in predicted]
    return ConventionScores(
        convention=convention,
        overall=_micro(convention, gold, predicted),
        types={kind: types[kind] for kind in order if kind in types},
        spans=_micro(convention, bare_gold, bare_predicted),
    )


def _micro(
    convention: Convention, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> Score:
    rows = _counts(convention, gold, predicted).values()
    total = (sum(row[0] for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows))
    return _as_score(_seqeval(convention, gold, predicted, average="micro"), total)


def _untyped(tags: Sequence[str], convention: Convention) -> tuple[str, ...]:
    spans = (entity._replace(type=ANY_TYPE) for entity in entities(tags, convention))
    return tags_of(spans, len(tags))


_Counts = tuple[int, int, int]
"""Numbers of gold, predicted and correct entities."""


def _counts(
    convention: Convention, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, _Counts]:
    wanted: Counter[str] = Counter()
    got: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for gold_post, predicted_post in zip(gold, predicted, strict=True):
        truth = set(entities(gold_post, convention))
        guess = set(entities(predicted_post, convention))
        wanted.update(entity.type for entity in truth)
        got.update(entity.type for entity in guess)
        right.update(entity.type for entity in truth & guess)
    return {kind: (wanted[kind], got[kind], right[kind]) for kind in wanted.keys() | got.keys()}


def _as_score(figures: Sequence[Any], counts: _Counts) -> Score:
    precision, recall, f1 = (float(figure) for figure in figures[:3])
    gold, predicted, correct = counts
    return Score(
        precision=precision, recall=recall, f1=f1, gold=gold, predicted=predicted, correct=correct
    )


def _seqeval(
    convention: Convention,
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    *,
    average: str | None,
) -> Sequence[Any]:
    """Return seqeval's precision, recall, F1 and support; it takes only lists."""
    truth, guess = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    if not truth:
        return ((), (), (), ()) if average is None else (0.0, 0.0, 0.0, 0)
    if convention == "lenient":
        result: Sequence[Any] = by_default(truth, guess, average=average, zero_division=0)
    else:
        result = by_scheme(truth, guess, average=average, zero_division=0, scheme=IOB2)
    return result


def _fit(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    """Raise a DataError unless both are canonical tags of the same posts and words."""
    if len(gold) != len(predicted):
        raise DataError(f"{len(predicted):,} posts were predicted; the gold has {len(gold):,}")
    faults = [
        f"post {number}: {len(got)} predicted tags; the post has {len(wanted)} words"
        for number, (wanted, got) in enumerate(zip(gold, predicted, strict=True), start=1)
        if len(wanted) != len(got)
    ]
    for tag in sorted({tag for posts in (gold, predicted) for tags in posts for tag in tags}):
        try:
            if (canonical := canonical_tag(tag)) != tag:
                faults.append(f"the tag is {tag!r}; wanted {canonical!r}")
        except DataError as error:
            faults.append(error.what)
    if faults:
        raise DataError("predictions that cannot be scored", faults=faults)


def _touches(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _gold_counts(scores: Scores) -> dict[str, int]:
    strict = {f"strict {kind}": s.gold for kind, s in scores.strict.types.items() if s.gold}
    lenient = {f"lenient {kind}": s.gold for kind, s in scores.lenient.types.items() if s.gold}
    return {"posts": scores.posts, "words": scores.words, **strict, **lenient}


def _convention_from_json(value: Mapping[str, Any]) -> ConventionScores:
    return ConventionScores(
        convention=value["convention"],
        overall=Score(**value["overall"]),
        types={kind: Score(**one) for kind, one in value["types"].items()},
        spans=Score(**value["spans"]),
    )
