import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.errors import ConfigError
from mnerfeat.preference.discriminator import (
    CachedEmbeddings,
    Discriminator,
    DiscriminatorConfig,
    ranking_loss,
    relevance,
)

from .builders import unchecked


def discriminator(seed=0, **options):
    torch.manual_seed(seed)
    config = DiscriminatorConfig(**{"hidden": 7, **options})
    return Discriminator(config, d_clip_text=4, d_clip_image=3).double().eval()


def plain_reward(module, text, image):
    """MLP([T; V]) with lists."""
    x = [*text, *image]
    for layer in module.mlp:
        if isinstance(layer, torch.nn.Linear):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            x = [
                sum(w * a for w, a in zip(row, x, strict=True)) + b
                for row, b in zip(weight, bias, strict=True)
            ]
        elif isinstance(layer, torch.nn.ReLU):
            x = [max(0.0, a) for a in x]
        elif isinstance(layer, torch.nn.Tanh):
            x = [math.tanh(a) for a in x]
    return x[0]


@pytest.mark.parametrize("options", [{}, {"layers": 3}, {"activation": "tanh"}, {"dropout": 0.5}])
def test_agrees_with_a_plain_transcription(options):
    module = discriminator(**options)
    text, image = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    wanted = [
        plain_reward(module, t, v) for t, v in zip(text.tolist(), image.tolist(), strict=True)
    ]
    torch.testing.assert_close(module(text, image), torch.tensor(wanted).double())


@given(values=st.lists(st.tuples(st.floats(-40, 40), st.floats(-40, 40)), min_size=1, max_size=6))
def test_the_loss_is_equation_1(values):
    wanted = -sum(math.log(1 / (1 + math.exp(b - a))) for a, b in values) / len(values)
    better, worse = (torch.tensor(one, dtype=torch.double) for one in zip(*values, strict=True))
    assert ranking_loss(better, worse).item() == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_relevance_is_equation_2_and_a_half_at_the_blank_image():
    reward, blank = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([1.0, 1.0, 0.3])
    wanted = [1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0)), 0.5]
    torch.testing.assert_close(relevance(reward, blank), torch.tensor(wanted))


def test_without_a_hidden_layer_the_text_would_make_no_difference():
    texts, (a, b) = torch.randn(2, 4).double(), torch.randn(2, 1, 3).double()
    linear = torch.nn.Linear(7, 1).double()

    def difference(reward, text):
        return reward(text, a) - reward(text, b)

    flat = [
        difference(lambda t, v: linear(torch.cat([t, v], 1)), text.unsqueeze(0)) for text in texts
    ]
    torch.testing.assert_close(flat[0], flat[1])
    module = discriminator()
    bent = [difference(module, text.unsqueeze(0)) for text in texts]
    assert abs(bent[0] - bent[1]) > 1e-3


def test_the_temperature_divides_rewards():
    module = discriminator()
    text, image = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    before = module(text, image)
    module.temperature.fill_(2.5)
    torch.testing.assert_close(module(text, image), before / 2.5)


def test_cached_embeddings_are_looked_up_and_frozen():
    text, image = torch.randn(3, 4), torch.randn(5, 2)
    embeddings = CachedEmbeddings(text, image)
    assert embeddings.sizes == (4, 2)
    assert not list(embeddings.parameters())
    found = embeddings(torch.tensor([2, 0]), torch.tensor([4]))
    torch.testing.assert_close(found[0], text[[2, 0]])
    torch.testing.assert_close(found[1], image[[4]])


@pytest.mark.parametrize(("option", "value"), [("hidden", 0), ("layers", 0), ("dropout", 1.0)])
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=rf"rank\.network\.{option} is {value!r}"):
        DiscriminatorConfig(**{option: value})


def test_unknown_activations_are_refused():
    with pytest.raises(
        ConfigError, match=r"rank\.network\.activation is 'gelu'; choose from: relu"
    ):
        unchecked(DiscriminatorConfig, activation="gelu")
