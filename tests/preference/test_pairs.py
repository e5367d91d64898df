from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.preference.matching import RankedPost
from mnerfeat.preference.pairs import Order, make_pairs, number
from mnerfeat.preference.rankings import Ranking

from .builders import TinyPost


@st.composite
def orders(draw):
    items = draw(st.lists(st.integers(0, 20), min_size=2, max_size=6, unique=True))
    return Order(
        text=draw(st.integers(0, 5)),
        items=tuple(items),
        blank=draw(st.integers(0, len(items) - 1)),
    )


@given(some=st.lists(orders(), max_size=4))
def test_pairs_are_all_pairs_of_a_ranking_with_the_better_one_first(some):
    wanted = []
    for place, order in enumerate(some):
        for i, better in enumerate(order.items):
            for j, worse in enumerate(order.items):
                if i < j:
                    wanted.append((order.text, better, worse, order.blank in (i, j), place))
    pairs = make_pairs(some)
    found = zip(
        pairs.text.tolist(),
        pairs.better.tolist(),
        pairs.worse.tolist(),
        pairs.with_blank.tolist(),
        pairs.order.tolist(),
        strict=True,
    )
    assert list(found) == wanted
    assert len(pairs) == sum(len(o.items) * (len(o.items) - 1) // 2 for o in some)


def test_rankings_become_numbers_with_the_blank_after_the_last_image():
    def ranked(id_, text, images, blank):
        return RankedPost(
            split="train",
            post=TinyPost(id=id_, text=text, images=images),
            ranking=Ranking(id=id_, images=images, blank=blank),
        )

    some = [
        ranked("1", "x", ("a", "b"), 1),
        ranked("2", "y", ("b",), 0),
        ranked("3", "x", ("c",), 1),
    ]
    found, texts, images = number(some)
    assert (texts, images) == (("x", "y"), ("a", "b", "c"))
    assert found == (
        Order(text=0, items=(0, 3, 1), blank=1),
        Order(text=1, items=(3, 1), blank=0),
        Order(text=0, items=(2, 3), blank=1),
    )
