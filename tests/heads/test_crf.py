import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchcrf import CRF

from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.crf import crf_loss, crf_tags


def draw(n_tags, lengths, seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    crf = CRF(n_tags, batch_first=True).double()
    for parameter in crf.parameters():
        parameter.data = (
            torch.randn(parameter.shape, generator=generator, dtype=torch.double) * scale
        )
    emissions = torch.randn(
        len(lengths), max(lengths), n_tags, generator=generator, dtype=torch.double
    )
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    tags = torch.randint(n_tags, mask.shape, generator=generator)
    return crf, emissions * scale, torch.where(mask, tags, IGNORED), mask


def path_score(crf, emissions, path):
    """The score of one path of one post, term by term."""
    score = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
    for word, tag in enumerate(path):
        score = score + emissions[word, tag]
    for before, after in itertools.pairwise(path):
        score = score + crf.transitions[before, after]
    return score


posts = st.tuples(
    st.integers(2, 3),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(0, 10_000),
)


@settings(max_examples=25, deadline=None)
@given(posts)
def test_loss_and_tags_equal_the_enumeration_of_all_paths(post):
    n_tags, lengths, seed = post
    crf, emissions, tags, mask = draw(n_tags, lengths, seed)
    best = crf_tags(crf, emissions, mask)
    losses = []
    for index, length in enumerate(lengths):
        paths = list(itertools.product(range(n_tags), repeat=length))
        scores = torch.stack([path_score(crf, emissions[index], path) for path in paths])
        gold = path_score(crf, emissions[index], tags[index, :length].tolist())
        losses.append(scores.logsumexp(0) - gold)
        assert tuple(best[index, :length].tolist()) == paths[int(scores.argmax())]
        assert (best[index, length:] == IGNORED).all()
    torch.testing.assert_close(crf_loss(crf, emissions, tags, mask), torch.stack(losses).mean())


def test_padding_keeps_the_width_of_the_batch():
    crf, emissions, _, mask = draw(3, [2, 4], seed=1)
    emissions = torch.nn.functional.pad(emissions, (0, 0, 0, 3))
    tags = crf_tags(crf, emissions, torch.nn.functional.pad(mask, (0, 3)))
    assert tags.shape == (2, 7)
    assert (tags[:, 4:] == IGNORED).all()


def test_every_parameter_takes_part_in_posts_of_one_word():
    crf, emissions, tags, mask = draw(3, [1, 1], seed=2)
    crf_loss(crf, emissions, tags, mask).backward()
    # Training on several devices stops if a parameter has no gradient.
    assert all(parameter.grad is not None for parameter in crf.parameters())
