"""The transformer block against torch's own, and on real rows alone."""

import pytest
import torch
from torch import nn

from mnerfeat.heads.blocks import TransformerBlock, real_rows

D_MODEL, HEADS = 12, 3
LENGTHS = torch.tensor([5, 2, 7, 1])


@pytest.fixture(params=["post", "pre"])
def block(request: pytest.FixtureRequest) -> TransformerBlock:
    torch.manual_seed(0)
    made = TransformerBlock(D_MODEL, attention_heads=HEADS, dropout=0.0, norm=request.param)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.arange(7) < LENGTHS[:, None]


def test_self_attention_is_torchs_encoder_layer(
    block: TransformerBlock, mask: torch.Tensor
) -> None:
    upstream = nn.TransformerEncoderLayer(
        D_MODEL,
        HEADS,
        4 * D_MODEL,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=block.norm == "pre",
    )
    names = {
        "attention": "self_attn", "feed_forward.0": "linear1", "feed_forward.3": "linear2",
        "norms.0": "norm1", "norms.1": "norm2",
    }  # fmt: skip
    state = {}
    for name, value in block.state_dict().items():
        ours = next(ours for ours in names if name.startswith(f"{ours}."))
        state[names[ours] + name[len(ours) :]] = value
    upstream.load_state_dict(state)
    x = torch.randn(4, 7, D_MODEL)
    wanted = upstream(x, src_key_padding_mask=~mask)
    assert torch.allclose(block(x, x, mask)[mask], wanted[mask], atol=1e-5)


@pytest.mark.parametrize("cross", [False, True])
def test_real_rows_alone_give_the_same_states_and_gradients(
    block: TransformerBlock, mask: torch.Tensor, cross: bool
) -> None:
    memory_mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    found = []
    for rows in (None, real_rows(mask)):
        torch.manual_seed(1)
        x = torch.randn(4, 7, D_MODEL, requires_grad=True)
        memory = torch.randn(4, 3, D_MODEL, requires_grad=True)
        block.zero_grad()
        out = block(x, memory, memory_mask, rows) if cross else block(x, x, mask, rows)
        (out[mask] ** 3).sum().backward()
        assert x.grad is not None
        found.append([out[mask], x.grad[mask], *(p.grad for p in block.parameters())])
        if rows is not None:
            assert (out[~mask] == 0).all()
    for plain, packed in zip(*found, strict=True):
        assert torch.allclose(plain, packed, rtol=1e-4, atol=1e-5)


def test_what_stands_on_padding_reaches_no_word(
    block: TransformerBlock, mask: torch.Tensor
) -> None:
    x = torch.randn(4, 7, D_MODEL)
    other = torch.where(mask[..., None], x, 1e3)
    rows = real_rows(mask)
    assert torch.equal(block(x, x, mask, rows), block(other, other, mask, rows))
