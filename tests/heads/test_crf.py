import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torchcrf import CRF

from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.crf import log_likelihood, viterbi


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
def test_log_likelihood_and_viterbi_equal_the_enumeration_of_all_paths(post):
    n_tags, lengths, seed = post
    crf, emissions, tags, mask = draw(n_tags, lengths, seed)
    got = log_likelihood(crf, emissions, tags, mask)
    best = viterbi(crf, emissions, mask)
    for index, length in enumerate(lengths):
        paths = list(itertools.product(range(n_tags), repeat=length))
        scores = torch.stack([path_score(crf, emissions[index], path) for path in paths])
        gold = path_score(crf, emissions[index], tags[index, :length].tolist())
        torch.testing.assert_close(got[index], gold - scores.logsumexp(0))
        assert tuple(best[index, :length].tolist()) == paths[int(scores.argmax())]
        assert (best[index, length:] == IGNORED).all()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 9),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(0, 10_000),
    st.sampled_from([0.1, 2.0, 30.0]),
)
def test_results_and_gradients_are_those_of_pytorch_crf(n_tags, lengths, seed, scale):
    crf, emissions, tags, mask = draw(n_tags, lengths, seed, scale)
    emissions.requires_grad_()
    leaves = [emissions, *crf.parameters()]
    ours = log_likelihood(crf, emissions, tags, mask)
    theirs = crf(emissions, tags.clamp(min=0), mask, reduction="none")
    torch.testing.assert_close(ours, theirs)
    gradients = torch.autograd.grad(ours.sum(), leaves)
    wanted = torch.autograd.grad(theirs.sum(), leaves, materialize_grads=True)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want)
    decoded = crf.decode(emissions, mask)
    assert [row[row != IGNORED].tolist() for row in viterbi(crf, emissions, mask)] == decoded


def test_likelihoods_of_all_paths_sum_to_one():
    crf, emissions, _, mask = draw(3, [4], seed=1)
    paths = torch.tensor(list(itertools.product(range(3), repeat=4)))
    many = log_likelihood(crf, emissions.expand(81, -1, -1), paths, mask.expand(81, -1))
    torch.testing.assert_close(many.exp().sum(), torch.tensor(1.0, dtype=torch.double))


def test_every_parameter_takes_part_in_posts_of_one_word():
    crf, emissions, tags, mask = draw(3, [1, 1], seed=2)
    log_likelihood(crf, emissions, tags, mask).sum().backward()
    # pytorch-crf leaves the transitions out here, which stops training on several devices.
    assert all(parameter.grad is not None for parameter in crf.parameters())


def test_equal_scores_decode_as_in_pytorch_crf():
    crf = CRF(4, batch_first=True)
    for parameter in crf.parameters():
        parameter.data.zero_()
    mask = torch.ones(2, 5, dtype=torch.bool)
    emissions = torch.zeros(2, 5, 4)
    assert viterbi(crf, emissions, mask).tolist() == crf.decode(emissions, mask)


def operations(call):
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    counts = {event.key: event.count for event in seen.key_averages()}
    return sum(counts.values()), counts.get("aten::_local_scalar_dense", 0)


@pytest.mark.filterwarnings("ignore")
def test_decoding_fetches_nothing_word_by_word():
    crf, emissions, _, mask = draw(9, [32] * 16, seed=3)
    with torch.no_grad():
        ours, fetched = operations(lambda: viterbi(crf, emissions, mask))
        theirs, theirs_fetched = operations(lambda: crf.decode(emissions, mask))
    assert theirs_fetched >= 16 * 32  # what is to be avoided
    assert fetched == 0
    assert ours < theirs


@pytest.mark.filterwarnings("ignore")
def test_the_loss_takes_fewer_operations_than_pytorch_crf():
    crf, emissions, tags, mask = draw(9, [32] * 16, seed=3)
    ours, _ = operations(lambda: log_likelihood(crf, emissions, tags, mask).sum().backward())
    theirs, _ = operations(lambda: crf(emissions, tags, mask).backward())
    assert ours < 0.7 * theirs
