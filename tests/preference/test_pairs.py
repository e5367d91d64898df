from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.preference.pairs import IndexedRanking, index_rankings, make_pairs
from mnerfeat.preference.posts import RankedPost
from mnerfeat.preference.rankings import Ranking

from .builders import TinyPost


@st.composite
def orders(draw):
    items = draw(st.lists(st.integers(0, 20), min_size=2, max_size=6, unique=True))
    return IndexedRanking(
        text=draw(st.integers(0, 5)),
        items=tuple(items),
        blank=draw(st.integers(0, len(items) - 1)),
    )


@given(some=st.lists(orders(), max_size=4))
def test_pairs_are_all_pairs_of_a_ranking_with_the_better_one_first(some):
    wanted = []
    for order in some:
        for i, better in enumerate(order.items):
            for j, worse in enumerate(order.items):
                if i < j:
                    wanted.append([order.text, better, worse])
    assert make_pairs(some).tolist() == wanted
    assert len(wanted) == sum(len(o.items) * (len(o.items) - 1) // 2 for o in some)


@given(some=st.lists(orders(), max_size=4))
def test_neighbours_are_the_pairs_of_the_authors_code(some):
    wanted = [
        [order.text, order.items[j], order.items[j + 1]]
        for order in some
        for j in range(len(order.items) - 1)
    ]
    assert make_pairs(some, "neighbours").tolist() == wanted


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
    found, texts, images = index_rankings(some)
    assert (texts, images) == (("x", "y"), ("a", "b", "c"))
    assert found == (
        IndexedRanking(text=0, items=(0, 3, 1), blank=1),
        IndexedRanking(text=1, items=(3, 1), blank=0),
        IndexedRanking(text=0, items=(2, 3), blank=1),
    )
