"""Sequences without their padding, against the same ones with it."""

import pytest
import torch

from mnerfeat.heads.dpe import packing
from mnerfeat.heads.dpe.packing import Packed

COUNT = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 3.0, 1.0]])
REAL = COUNT > 0


@pytest.fixture(params=["on a processor", "on a GPU"])
def device(request, monkeypatch):
    if request.param == "on a GPU":  # padding is kept there
        monkeypatch.setattr(packing, "real_rows", lambda _: None)
    return request.param


@pytest.fixture
def x():
    return torch.randn(4, 3, 5)


def test_packed_vectors_come_back_in_their_positions(x, device):
    it = Packed.of(x, COUNT)
    assert len(it.states) == (6 if device == "on a processor" else 12)
    torch.testing.assert_close(it.padded()[REAL], x[REAL])
    torch.testing.assert_close(it.padded(it.states[:, :2])[REAL], x[REAL][:, :2])
    torch.testing.assert_close(it.with_states(2 * it.states).padded()[REAL], 2 * x[REAL])
    torch.testing.assert_close(it.pack(x), it.states)


@pytest.mark.usefixtures("device")
def test_a_vector_per_post_is_repeated_for_each_vector_of_the_post(x):
    it = Packed.of(x, COUNT)
    of_post = torch.randn(4, 2)
    got = it.padded(it.repeat(of_post))
    torch.testing.assert_close(got[REAL], of_post.unsqueeze(1).expand(-1, 3, -1)[REAL])


@pytest.mark.usefixtures("device")
def test_a_mean_counts_a_vector_as_often_as_it_occurs(x):
    got = Packed.of(x, COUNT).mean()
    torch.testing.assert_close(got[0], (2 * x[0, 0] + x[0, 1]) / 3)
    torch.testing.assert_close(got[1], x[1, 0])
    torch.testing.assert_close(got[3], (x[3, 0] + 3 * x[3, 1] + x[3, 2]) / 5)
    assert not got[2].any()


def test_whole_sequences_have_no_padding(x):
    it = Packed.full(x)
    torch.testing.assert_close(it.padded(), x)
    torch.testing.assert_close(it.mean(), x.mean(dim=1))
    assert it.count.eq(1).all()
