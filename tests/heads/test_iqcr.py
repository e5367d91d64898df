import math

import pytest
import torch

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadSizes, Images
from mnerfeat.heads.iqcr import IqcrConfig

from .contract import IMAGES, SIZES, WORDS, HeadContract, draw, unchecked
from .image_lengths import movement


class TestIqcr(HeadContract):
    config = IqcrConfig(dropout=0.0)

    def test_one_image_makes_equation_8_the_identity(self, head, batch):
        words, images, _ = batch
        one = Images(
            mask=images.mask[:, :1], columns={k: v[:, :1] for k, v in images.columns.items()}
        )
        vectors = head.fusion.projection(one["vit_cls"])
        weighted, seen = head.fusion.weighting(words.sentence, vectors, one)
        some = one.mask[:, 0]
        assert (seen["weight"][some] == 1).all()
        assert (seen["quality_weight"][some] == 1).all()
        assert (seen["gate"][some] < 1).all()
        torch.testing.assert_close(weighted, vectors)

    def test_weights_sum_to_one_before_they_are_multiplied(self, head, batch):
        seen = head(*batch).images
        some = batch[1].mask.any(dim=1)
        for name in ("quality_weight", "relevance_weight"):
            torch.testing.assert_close(seen[name].sum(dim=1), some.float())
        product = seen["quality_weight"] * seen["relevance_weight"]
        torch.testing.assert_close(seen["weight"], product)

    def test_the_scores_are_passed_on_as_they_came(self, head, batch):
        seen = head(*batch).images
        for name in ("quality", "relevance"):
            torch.testing.assert_close(seen[name], batch[1][name])

    def test_alpha_and_beta_start_at_one_and_stand_in_a_group_of_their_own(self):
        scalars = self.config.build(SIZES).parameter_groups()["scalars"]
        assert [scalar.item() for scalar in scalars] == [1.0, 1.0]

    def test_the_words_own_states_reach_the_emissions(self, head, batch):
        words, images, _ = batch
        states = words.states.clone().requires_grad_()
        fused = head.fusion(
            type(words)(states=states, mask=words.mask, sentence=words.sentence), images
        )
        own = torch.autograd.grad(fused.states[0, 0].sum(), states)[0][0, 0]
        assert own.abs().max() > 0.1


class TestIqcrRenormalised(HeadContract):
    config = IqcrConfig(dropout=0.0, renormalise=True)

    def test_weights_of_a_post_sum_to_one(self, head, batch):
        sums = head(*batch).images["weight"].sum(dim=1)
        torch.testing.assert_close(sums, batch[1].mask.any(dim=1).float())


class TestIqcrWithoutQuality(HeadContract):
    config = IqcrConfig(dropout=0.0, ablation="no-iqw")

    def test_only_relevance_weights(self, head, batch):
        seen = head(*batch).images
        assert set(seen) == {"relevance", "relevance_weight", "weight", "gate"}
        torch.testing.assert_close(seen["weight"], seen["relevance_weight"])


class TestIqcrWithoutRelevance(HeadContract):
    config = IqcrConfig(dropout=0.0, ablation="no-cmw")

    def test_only_quality_weights(self, head, batch):
        seen = head(*batch).images
        assert set(seen) == {"quality", "quality_weight", "weight", "gate"}
        torch.testing.assert_close(seen["weight"], seen["quality_weight"])


class TestIqcrUnweighted(HeadContract):
    config = IqcrConfig(dropout=0.0, ablation="unweighted")


class TestIqcrOfSeveralLayers(HeadContract):
    config = IqcrConfig(dropout=0.0, layers=2, attention_heads=2)


class TestIqcrPreNorm(HeadContract):
    config = IqcrConfig(dropout=0.0, norm="pre", layers=2)


class TestIqcrBareAttention(HeadContract):
    config = IqcrConfig(dropout=0.0, norm="bare")


# --- equations 5 to 11, transcribed with plain loops -------------------------------------------


def linear(layer, x):
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        sum(w * a for w, a in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def layer_norm(layer, x):
    mean = sum(x) / len(x)
    variance = sum((a - mean) ** 2 for a in x) / len(x)
    scale = [(a - mean) / math.sqrt(variance + layer.eps) for a in x]
    return [
        a * w + b for a, w, b in zip(scale, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def exponentials(scores):
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def attention(layer, queries, memory):
    """Multi-head attention of Vaswani et al. (2017), eq. 1 for each head."""
    d, heads = layer.embed_dim, layer.num_heads
    weight, bias = layer.in_proj_weight, layer.in_proj_bias

    class Part:
        def __init__(self, part):
            self.weight = weight[part * d : (part + 1) * d]
            self.bias = bias[part * d : (part + 1) * d]

    q = [linear(Part(0), x) for x in queries]
    k = [linear(Part(1), x) for x in memory]
    v = [linear(Part(2), x) for x in memory]
    size = d // heads
    out = []
    for query in q:
        row = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            dots = [
                sum(a * b for a, b in zip(query[part], key[part], strict=True)) / math.sqrt(size)
                for key in k
            ]
            shares = exponentials(dots)
            row += [
                sum(share * value[part][i] for share, value in zip(shares, v, strict=True))
                for i in range(size)
            ]
        out.append(linear(layer.out_proj, row))
    return out


def added(x, more):
    return [
        [a + b for a, b in zip(row, add, strict=True)] for row, add in zip(x, more, strict=True)
    ]


def attended(layer, queries, memory):
    """Attention; zero without memory."""
    return (
        attention(layer.attention, queries, memory)
        if memory
        else [[0.0] * len(row) for row in queries]
    )


def perceptron(layer, row):
    hidden = [
        0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in linear(layer.feed_forward[0], row)
    ]
    return linear(layer.feed_forward[3], hidden)


def post_norm(layer, x, memory=None):
    """A block as in Vaswani et al. (2017); self-attention without memory."""
    x = added(x, attended(layer, x, x if memory is None else memory))
    x = [layer_norm(layer.norms[0], row) for row in x]
    x = added(x, [perceptron(layer, row) for row in x])
    return [layer_norm(layer.norms[1], row) for row in x]


def pre_norm(layer, x, memory=None):
    """A block that normalises what enters its layers, but not the memory of cross-attention."""
    normed = [layer_norm(layer.norms[0], row) for row in x]
    x = added(x, attended(layer, normed, normed if memory is None else memory))
    return added(x, [perceptron(layer, layer_norm(layer.norms[1], row)) for row in x])


def bare(layer, x, memory=None):
    """Attention, and the residual by which words reach the CRF."""
    return added(x, attended(layer, x, x if memory is None else memory))


BLOCKS = {"post": post_norm, "pre": pre_norm, "bare": bare}


def iqcr(fusion, text, sentence, vit, quality, relevance, *, renormalise, norm):
    """One post without any padding, in lists of numbers; no scores where they are ablated."""
    scales = dict(fusion.weighting.scales.items())
    images = [linear(fusion.projection, v) for v in vit]
    m = len(images)
    w_qual, w_corr = [1.0] * m, [1.0] * m
    if quality:
        w_qual = exponentials([scales["alpha"].item() * q for q in quality])  # eq. 5
    if relevance:
        w_corr = exponentials([scales["beta"].item() * c for c in relevance])  # eq. 6
    weight = [a * b for a, b in zip(w_qual, w_corr, strict=True)]  # eq. 7
    if renormalise:
        weight = [w / sum(weight) for w in weight]
    gates, weighted = [], []
    for i in range(m):
        scores = [column[i] for column in (quality, relevance) if column is not None]
        hidden = linear(fusion.weighting.gate[0], [*sentence, *images[i], *scores])
        logit = linear(fusion.weighting.gate[2], [max(0.0, a) for a in hidden])[0]
        gate = 1 / (1 + math.exp(-logit))
        gates.append(gate)
        weighted.append([gate * weight[i] * h + (1 - gate) * h for h in images[i]])  # eq. 8
    block = BLOCKS[norm]
    text = block(fusion.text_blocks[0], text)  # eq. 9
    if m:
        weighted = block(fusion.image_blocks[0], weighted)  # eq. 10
    return block(fusion.cross_blocks[0], text, weighted), weight, gates  # eq. 11


@pytest.mark.parametrize(
    ("ablation", "renormalise", "norm"),
    [
        *((ablation, False, "post") for ablation in ("none", "no-iqw", "no-cmw")),
        *((ablation, True, "post") for ablation in ("none", "no-iqw", "no-cmw")),
        ("none", False, "pre"),
        ("none", False, "bare"),
    ],
)
def test_equals_a_plain_loop_transcription_of_equations_5_to_11(ablation, renormalise, norm):
    config = IqcrConfig(ablation=ablation, renormalise=renormalise, norm=norm, dropout=0.0)
    torch.manual_seed(1)
    fusion = config.build(SIZES).fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    words, images, _ = draw(config, seed=4)
    words = type(words)(
        states=words.states.double(), mask=words.mask, sentence=words.sentence.double()
    )
    images = Images(mask=images.mask, columns={k: v.double() for k, v in images.columns.items()})
    fused = fusion(words, images)
    for post, (n_words, n_images) in enumerate(zip(WORDS, IMAGES, strict=True)):
        column = {k: v[post, :n_images].tolist() for k, v in images.columns.items()}
        states, weight, gates = iqcr(
            fusion,
            words.states[post, :n_words].tolist(),
            words.sentence[post].tolist(),
            column["vit_cls"],
            column.get("quality"),
            column.get("relevance"),
            renormalise=renormalise,
            norm=norm,
        )
        # The scores and gates are computed in float32 whatever the precision around them.
        kwargs = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
        got = fused.states[post, :n_words]
        torch.testing.assert_close(got, torch.tensor(states, dtype=torch.double), **kwargs)
        for name, wanted in (("weight", weight), ("gate", gates)):
            torch.testing.assert_close(
                fused.images[name][post, :n_images], torch.tensor(wanted), **kwargs
            )


@pytest.mark.parametrize(("norm", "least", "most"), [("post", 0, 0.1), ("pre", 0.4, 0.7),
                                                     ("bare", 0.4, 0.7)])  # fmt: skip
def test_only_without_norms_after_the_layers_does_the_length_of_images_matter(norm, least, most):
    """All images at half length, at BERT-base's size; figures in docs/errata.md."""
    moved = movement(norm, [0.5, 0.5, 0.5])
    assert least < moved < most


def test_vectors_of_the_text_encoders_size_are_not_projected():
    sizes = HeadSizes(n_tags=5, d_text=12, text_layers=2, text_heads=4, columns={"vit_cls": 12})
    assert not list(IqcrConfig().build(sizes).fusion.projection.parameters())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ablation", "no-iwq"),
        ("norm", "none"),
        ("layers", 0),
        ("attention_heads", 0),
        ("dropout", 1.0),
    ],
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=rf"head\.iqcr\.{option} is {value!r}"):
        unchecked(IqcrConfig, **{option: value})


def test_attention_heads_must_divide_the_text_states():
    with pytest.raises(ConfigError, match=r"head\.iqcr\.attention_heads is 5.*16 dimensions"):
        IqcrConfig(attention_heads=5).build(SIZES)
