"""The reasoning networks against the paper's equations, written out for one post."""

from typing import Any

import pytest
import torch

from mnerfeat.heads.base import Head, Images, Words
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.fusion import FusionUnit, ImageTokens, Timestep
from mnerfeat.heads.dpe.layers import Attention, LayerSizes
from mnerfeat.heads.dpe.packing import Packed, Spans
from tests.heads.contract import IMAGES, SIZES, WORDS, Batch, draw
from tests.heads.dpe import transcribed

SPANS = [(0, 2), (1, 1), (0, 0), (1, 1), (0, 2), (2, 3)]
"""Of a post, with repetitions."""

LAYERS = LayerSizes(
    d_model=8, attention_size=6, attention_heads=2, feed_forward=5, bottlenecks=3, dropout=0.0
)


def shaken(head: Any) -> Any:
    """With weights that leave nothing near zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
    return head.eval()


def built(config: Any) -> Head:
    return shaken(config.build(SIZES))


def reason(head: Any, batch: Batch, time: int, spans: list[tuple[int, int]]) -> Any:
    """What the network makes of the same spans in every post, cut to its words."""
    words, images, _ = batch
    last = words.mask.sum(1, keepdim=True) - 1
    bounds = torch.tensor([spans] * len(words.mask))
    found = Spans.distinct(bounds[..., 0].minimum(last), bounds[..., 1].minimum(last))
    times = torch.full((len(words.mask),), time)
    step = Timestep(time=times, signal=head.diffusion.signal_share(times))
    network = head.network
    with torch.no_grad():
        spans, fused = network(network.context(words, images), found, step, pairs=True)
    states = spans.padded()
    index = found.index.unsqueeze(2).expand(-1, -1, states.shape[2])
    return fused, states.gather(1, index)


def of_post(post: int) -> list[tuple[int, int]]:
    last = WORDS[post] - 1
    return [(min(left, last), min(right, last)) for left, right in SPANS]


def tokens(head: Any, batch: Batch, post: int) -> list[dict[tuple[str, str], torch.Tensor]]:
    """The real tokens of each of a post's images, projected, by granularity and gap."""
    columns = batch[1].columns
    found: list[dict[tuple[str, str], torch.Tensor]] = [{} for _ in range(IMAGES[post])]
    for image, of_image in enumerate(found):
        for grain, gap, name, length in (
            ("coarse", "image", "grid", None),
            ("coarse", "text", "caption_states", "caption_length"),
            ("fine", "image", "regions_grid", "regions_count"),
            ("fine", "text", "tags_states", "tags_length"),
        ):
            vectors = columns[name][post, image]
            if length:
                vectors = vectors[: int(columns[length][post, image])]
            layer = head.network.fusion.representations[f"{grain}_{gap}"].projection
            flat = vectors.reshape(-1, vectors.shape[-1])
            of_image[grain, gap] = transcribed.linear(layer, flat)
    return found


@pytest.mark.parametrize("time", [3, 700])
@pytest.mark.parametrize("post", [0, 2, 4])
def test_dpe_is_the_papers_equations(post: int, time: int) -> None:
    config = DpeConfig(spans=24, dropout=0.0, attention_size=8, attention_heads=2, feed_forward=6)
    head, batch = built(config), draw(config)
    columns = batch[1].columns
    # Means over no tokens are the head's own affair; here there is something of each kind.
    for name in ("caption_length", "tags_length", "regions_count"):
        columns[name] = columns[name].clamp(min=1) * batch[1].mask
    _, got = reason(head, batch, time, SPANS)
    words = batch[0].states[post, : WORDS[post]]
    with torch.no_grad():
        spans, embedded = transcribed.span_states(head.network, words, of_post(post), time)
        texts = {"token": words, "sentence": batch[0].sentence[post : post + 1], "span": spans}
        share = float(head.diffusion.alpha_bar[time].sqrt())
        wanted = transcribed.fuse(head.network, texts, tokens(head, batch, post), embedded, share)
    torch.testing.assert_close(got[post], wanted, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("post", [0, 1, 2])
def test_bert_iterative_is_the_equations_without_images(post: int) -> None:
    config = IterativeConfig(spans=24, dropout=0.0, attention_size=8, attention_heads=2)
    head, batch = built(config), draw(config)
    _, got = reason(head, batch, 500, SPANS)
    words = batch[0].states[post, : WORDS[post]]
    with torch.no_grad():
        spans, embedded = transcribed.span_states(head.network, words, of_post(post), 500)
        fused = {"token": words, "sentence": batch[0].sentence[post : post + 1], "span": spans}
        wanted = transcribed.top(head.network, fused, embedded)
    torch.testing.assert_close(got[post], wanted, rtol=2e-3, atol=2e-4)


def test_relevance_of_all_pairs_is_that_of_each_text_with_each_images() -> None:
    config = DpeConfig(spans=24, dropout=0.0)
    head, batch = built(config), draw(config)
    for name in ("caption_length", "tags_length", "regions_count"):
        batch[1].columns[name] = batch[1].columns[name].clamp(min=1) * batch[1].mask
    fused, _ = reason(head, batch, 500, SPANS)
    for level in ("token", "sentence", "span"):
        for a in (0, 2, 3):
            words = batch[0].states[a, : WORDS[a]]
            with torch.no_grad():
                x = {
                    "token": words,
                    "sentence": batch[0].sentence[a : a + 1],
                    "span": transcribed.span_states(head.network, words, of_post(a), 500)[0],
                }[level]
                for b in (0, 2, 4):
                    each = [
                        transcribed.relevance(
                            head.network.fusion.bottom[f"{level}_{grain}"].gates[level],
                            x,
                            y[grain, "image"],
                            y[grain, "text"],
                        )
                        for y in tokens(head, batch, b)
                        for grain in ("coarse", "fine")
                    ]
                    wanted = sum(each) / len(each)
                    assert float(fused.pairs[level][a, b]) == pytest.approx(wanted, abs=1e-4)


def test_attention_to_counted_keys_is_attention_to_repeated_keys() -> None:
    layer = shaken(Attention(LAYERS))
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    count = torch.tensor([[2.0, 0.0, 1.0, 3.0], [0.0, 1.0, 0.0, 0.0]])
    queries = Packed.full(x)
    got = queries.padded(layer(queries, Packed.of(memory, count)))
    beside = queries.padded(
        layer(
            queries, Packed.of(memory[:, :1], count[:, :1]), Packed.of(memory[:, 1:], count[:, 1:])
        )
    )
    torch.testing.assert_close(beside, got)
    for post in range(2):
        times = count[post].long()
        wanted = transcribed.attention(layer, x[post], memory[post].repeat_interleave(times, dim=0))
        torch.testing.assert_close(got[post], wanted, rtol=1e-4, atol=1e-5)


def test_the_bottleneck_transformer_sees_the_weighted_tokens() -> None:
    unit = shaken(FusionUnit(LAYERS, "token", views=1))
    text, weight = torch.randn(3, 3, 8), torch.rand(3, 2, 5)
    tokens = torch.randn(3, 2, 5, 8)
    mask = torch.tensor(
        [[[1, 1, 0, 1, 1], [0, 1, 0, 0, 0]], [[0] * 5, [1, 1, 0, 0, 0]], [[0] * 5] * 2]
    ).bool()
    images = mask.any(dim=2)
    context = unit.context(ImageTokens.of(tokens, mask), images)
    got = unit.mbt(Packed.full(text), context, weight).padded()
    for post in range(3):
        seen = [
            (weight[post, image, :, None] * tokens[post, image])[mask[post, image]]
            for image in range(2)
            if images[post, image]
        ]
        wanted = transcribed.bottleneck_transformer(unit.mbt, text[post], seen or [text[0, :0]])
        torch.testing.assert_close(got[post], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ablation", ["none", "no-dmf", "no-coarse"])
def test_an_image_is_as_relevant_alone_as_beside_others(ablation: Any) -> None:
    """Each image is looked at for itself; only the text sees them together."""
    config = DpeConfig(spans=24, dropout=0.0, ablation=ablation)
    head, batch = built(config), draw(config)
    words, images, gold = batch
    together, _ = reason(head, batch, 300, SPANS)
    for slot in range(images.mask.shape[1]):
        alone = Images(
            mask=images.mask[:, slot : slot + 1],
            columns={name: column[:, slot : slot + 1] for name, column in images.columns.items()},
        )
        apart, _ = reason(head, (words, alone, gold), 300, SPANS)
        torch.testing.assert_close(apart.relevance[:, 0], together.relevance[:, slot])
    assert int(images.mask.sum(dim=1).max()) > 1


def test_the_order_of_images_says_nothing() -> None:
    config = DpeConfig(spans=24, dropout=0.0)
    head, batch = built(config), draw(config)
    words, images, _ = batch
    turned = Images(
        mask=images.mask.flip(1), columns={k: v.flip(1) for k, v in images.columns.items()}
    )
    _, got = reason(head, (words, turned, batch[2]), 300, SPANS)
    _, wanted = reason(head, batch, 300, SPANS)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert isinstance(words, Words)
