"""The paper's equations for one post, written out with plain loops.

Every noisy span stands for itself, and nothing is padded, masked, split or kept between steps:
the slow form of what `mnerfeat.heads.dpe` computes. Weights are taken from the head's layers.
"""

import math
from typing import Any

import torch
from torch import Tensor


def linear(layer: Any, x: Tensor) -> Tensor:
    rows = []
    for row in x:
        out = [sum(w * v for w, v in zip(weights, row, strict=True)) for weights in layer.weight]
        rows.append(torch.stack(out) + (0 if layer.bias is None else layer.bias))
    return torch.stack(rows)


def norm(layer: Any, x: Tensor) -> Tensor:
    rows = []
    for row in x:
        mean = row.sum() / len(row)
        variance = ((row - mean) ** 2).sum() / len(row)
        rows.append((row - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias)
    return torch.stack(rows)


def attention(layer: Any, x: Tensor, memory: Tensor) -> Tensor:
    heads = layer.attention_heads
    query, key, value = (
        linear(layer.query, x),
        linear(layer.key, memory),
        linear(layer.value, memory),
    )
    size = query.shape[1] // heads
    rows = []
    for q in query:
        parts = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = [math.exp(float((q[part] @ k[part]).detach()) / math.sqrt(size)) for k in key]
            parts.append(sum(s * v[part] for s, v in zip(scores, value, strict=True)) / sum(scores))
        rows.append(torch.cat(parts))
    return linear(layer.output, torch.stack(rows))


def feed(layer: Any, x: Tensor) -> Tensor:
    hidden = torch.nn.functional.gelu(linear(layer.layers[0], x))
    return norm(layer.norm, x + linear(layer.layers[2], hidden))


def gated(layer: Any, a: Tensor, b: Tensor) -> Tensor:
    """g ⊙ a + (1 − g) ⊙ b with g = σ([a; b] W + b)."""
    rows = []
    for x, y in zip(a, b, strict=True):
        g = 1 / (1 + (-linear(layer.layer, torch.cat([x, y])[None])[0]).exp())
        rows.append(g * x + (1 - g) * y)
    return torch.stack(rows)


def span_aggr(layer: Any, spans: Tensor, memory: Tensor) -> Tensor:
    hidden = norm(layer.norms[0], spans + attention(layer.own, spans, spans))
    return norm(layer.norms[1], hidden + attention(layer.across, hidden, memory))


def bottleneck_transformer(layer: Any, text: Tensor, images: list[Tensor]) -> Tensor:
    """MBT with one layer: each image and bottleneck tokens, then text and bottleneck tokens."""
    met = [text]
    for image in images:
        seen = attention(layer.image, layer.tokens, torch.cat([image, layer.tokens]))
        met.append(feed(layer.image_feed, norm(layer.image_norm, layer.tokens + seen)))
    met = attention(layer.text, text, torch.cat(met))
    return feed(layer.text_feed, norm(layer.text_norm, text + met))


def relevance(gate: Any, text: Tensor, image: Tensor, in_text: Tensor) -> float:
    """Eq. 4, of means, through two layers."""
    means = [sum(x[1:], x[0]) / len(x) for x in (text, image, in_text)]
    first = torch.cat([gate.text.weight, gate.image.weight], dim=1)
    hidden = (first @ torch.cat(means) + gate.text.bias).clamp(min=0)
    return float((gate.score.weight[0] @ hidden + gate.score.bias[0]).sigmoid().detach())


def span_states(network: Any, words: Tensor, spans: list[tuple[int, int]], time: int) -> Any:
    """x_s, and E_t."""
    means = [sum(words[left + 1 : right + 1], words[left]) / (right - left + 1)
             for left, right in spans]  # fmt: skip
    embedded = network.time(torch.tensor([time]))[0]
    return span_aggr(network.aggregator, torch.stack(means), words) + embedded, embedded


def top(network: Any, fused: dict[str, Tensor], embedded: Tensor) -> Tensor:
    t2s = span_aggr(network.aggregator, fused["span"], fused["token"]) + embedded  # eq. 11
    g2s = span_aggr(network.aggregator, fused["span"], fused["sentence"]) + embedded  # eq. 12
    x2s = gated(network.top.from_text, t2s, g2s)  # eqs. 13, 14
    return gated(network.top.from_all, x2s, fused["span"])  # eqs. 15, 16


def fuse(
    network: Any,
    texts: dict[str, Tensor],
    images: list[dict[tuple[str, str], Tensor]],
    embedded: Tensor,
    share: float,
) -> Tensor:
    """H_m by eqs. 3 to 16, λ_x = λ_y = 0.3.

    Args:
        network: Provides the weights.
        texts: x_t, x_g and x_s.
        images: y of each image by granularity and gap, projected.
        embedded: E_t.
        share: s.
    """
    fused = {}
    for level, x in texts.items():
        met = {}
        for grain in ("coarse", "fine"):
            layer = network.fusion.bottom[f"{level}_{grain}"]
            weighted = []
            for image in images:
                y, y_text = image[grain, "image"], image[grain, "text"]
                h = torch.cat([(1 - 0.3 * share) * y, 0.3 * share * y_text])  # eq. 3
                rel = relevance(layer.gates[level], x, y, y_text)  # eq. 4
                weighted.append(rel * h)
            met[grain] = bottleneck_transformer(layer.mbt, x, weighted)  # eq. 5
        scheduled = 0.3 * share * met["coarse"] + (1 - 0.3 * share) * met["fine"]  # eq. 6
        mixed = gated(network.fusion.gated, met["coarse"], met["fine"])  # eqs. 7, 8
        fused[level] = gated(network.fusion.mixed, scheduled, mixed)  # eqs. 9, 10
    return top(network, fused, embedded)
