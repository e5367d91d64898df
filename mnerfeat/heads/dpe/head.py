"""The head around a reasoning network: noise, steps, loss and entities."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnerfeat.heads.base import Head, HeadOutput, Images, KeyValues, ParameterGroup, Words
from mnerfeat.heads.dpe.config import DiffusionConfig
from mnerfeat.heads.dpe.decoding import Candidates, EntityDecoder, Scores, as_tags, decode
from mnerfeat.heads.dpe.diffusion import Diffusion, noise_of
from mnerfeat.heads.dpe.matching import find_targets, matched_loss, repetitions
from mnerfeat.heads.dpe.reasoning import Moment, Reasoned, Reasoner
from mnerfeat.heads.dpe.relevance import Alignment
from mnerfeat.heads.dpe.spans import (
    Entities,
    Signal,
    Spans,
    gold_entities,
    to_signal,
    to_words,
)

PointerWords = tuple[Float[Tensor, "batch words d"], Float[Tensor, "batch words d"]]


class DiffusionHead(Head):
    """Entities by iterative reasoning: noisy spans that become entities step by step.

    Training: the gold spans, repeated to fill N_s noisy spans, get the noise of a random timestep
    (eq. 1), and the network has to find the entities again. Use: N_s spans of pure noise are taken
    back to entities in a few steps of DDIM; what the last step is sure enough of is the answer. A
    post without entities has one span over all of it in the place of gold ones, and each of its
    spans has to become NIL.

    In training the noise comes from torch's generator. In evaluation mode, loss and entities come
    from the noise of each post's own seed, so they depend on no other post.

    Args:
        config: The options.
        reasoner: The network.
        d_text: Size of a word state.
        n_tags: Number of tag ids.
        align: How the relevance of images is learned; None for not at all.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        reasoner: Reasoner[Any],
        *,
        d_text: int,
        n_tags: int,
        align: Alignment | None = None,
    ) -> None:
        super().__init__()
        self.columns = reasoner.columns
        self.config = config
        self.align = align
        self.reasoner = reasoner
        self.decoder = EntityDecoder(d_text, types=(n_tags - 1) // 2, dropout=config.dropout)
        self.diffusion = Diffusion(config.noise, timesteps=config.timesteps, steps=config.steps)

    def parameter_groups(self) -> dict[ParameterGroup, list[torch.nn.Parameter]]:
        """All learn at one rate."""
        return {"fusion": list(self.parameters()), "crf": [], "scalars": []}

    def prefix(self, images: Images) -> KeyValues | None:  # noqa: ARG002
        """None: the images meet the text after the encoder."""
        return None

    def forward(
        self,
        words: Words,
        images: Images,
        gold: Int[Tensor, "batch words"] | None = None,
        *,
        decode: bool = True,
    ) -> HeadOutput:
        """L_NER, plus the alignment terms, and the entities after each reasoning step."""
        known = self.reasoner.look(words, images)
        pointed = self.decoder.look(known.words.states)
        noise = self._noise(words)
        loss = None
        if gold is not None:
            entities = [gold_entities(row) for row in gold.tolist()]
            loss = self._loss(known, pointed, images, entities, noise)
        if not decode:
            return HeadOutput(loss=loss, tags=None)
        steps, seen = self._reason(known, pointed, noise)
        return HeadOutput(loss=loss, tags=steps[-1], images=seen, steps=tuple(steps))

    def _noise(self, words: Words) -> Float[Tensor, "steps batch noisy 2"]:
        """Fresh noise of one step in training; in use that of each post's seed, for every step."""
        device = words.states.device
        batch = len(words.mask)
        if self.training:
            return torch.randn(1, batch, self.config.spans, 2, device=device)
        seeds = [0] * batch if words.seed is None else words.seed.tolist()
        return noise_of(seeds, spans=self.config.spans, steps=self.config.steps).to(device)

    def _times(self, words: Words) -> Int[Tensor, " batch"]:
        """A timestep for each post to learn from."""
        shape, device = (len(words.mask),), words.states.device
        if self.training:
            return torch.randint(self.config.timesteps, shape, device=device)
        if words.seed is None:
            return torch.zeros(shape, dtype=torch.long, device=device)
        return words.seed.to(device) % self.config.timesteps

    def _loss(
        self,
        known: Any,
        pointed: PointerWords,
        images: Images,
        entities: Sequence[Entities],
        noise: Float[Tensor, "steps batch noisy 2"],
    ) -> Float[Tensor, ""]:
        """Eq. 20."""
        words: Words = known.words
        time = self._times(words)
        noisy = self.diffusion.add_noise(self._start(words, entities), noise[0], time)
        scores, reasoned, spans = self._step(
            known, pointed, noisy, time, pairs=self.align is not None
        )
        weights = self.config.loss_weights
        targets = find_targets(scores, spans, entities, weights)
        loss = matched_loss(scores, targets, weights).mean()
        if self.align is not None:
            loss = loss + self.align.loss(reasoned.pairs, images.mask.any(dim=1))
        return loss

    def _start(self, words: Words, entities: Sequence[Entities]) -> Signal:
        """z_0: the gold spans, repeated to fill the noisy ones."""
        spans = self.config.spans
        lengths = words.mask.sum(dim=1)
        left, right = [], []
        for found, length in zip(entities, lengths.tolist(), strict=True):
            known = found or [(0, length - 1, 0)]
            repeated = [
                span
                for span, times in zip(known, repetitions(len(known), spans), strict=True)
                for span in [span] * times
            ][:spans]
            left.append([first for first, _, _ in repeated])
            right.append([last for _, last, _ in repeated])
        device = words.states.device
        return to_signal(
            torch.tensor(left, device=device),
            torch.tensor(right, device=device),
            lengths - int(self.config.lengths == "alike"),
            scale=self.config.scale,
        )

    def _step(
        self,
        known: Any,
        pointed: PointerWords,
        noisy: Signal,
        time: Int[Tensor, " batch"],
        *,
        pairs: bool = False,
    ) -> tuple[Scores, Reasoned, Spans]:
        """One reasoning step: from a noisy signal to what its spans seem to be."""
        words: Words = known.words
        spans = Spans.of(*to_words(noisy, words.mask.sum(dim=1) - 1, scale=self.config.scale))
        moment = Moment(time=time, share=self.diffusion.signal_share(time))
        reasoned: Reasoned = self.reasoner(known, spans, moment, pairs=pairs)
        return self.decoder(reasoned.spans, pointed, words.mask), reasoned, spans

    @torch.no_grad()
    def _reason(
        self, known: Any, pointed: PointerWords, noise: Float[Tensor, "steps batch noisy 2"]
    ) -> tuple[list[Int[Tensor, "batch words"]], dict[str, Float[Tensor, "batch images"]]]:
        """Tag ids after each step, and what the last one made of the images."""
        words: Words = known.words
        last = words.mask.sum(dim=1) - 1
        found: list[tuple[Candidates, Spans]] = []
        seen: dict[str, Tensor] = {}

        def predict(noisy: Signal, time: int) -> Signal:
            nonlocal seen
            times = torch.full_like(last, time)
            scores, reasoned, spans = self._step(known, pointed, noisy, times)
            candidates = Candidates.of(scores)
            found.append((candidates, spans))
            seen = dict(reasoned.images)
            left, right = (x.gather(1, spans.place) for x in (candidates.left, candidates.right))
            return to_signal(left, right, last, scale=self.config.scale)

        self.diffusion.sample(noise, predict)
        threshold = self.config.threshold
        tags = [
            as_tags(decode(candidates, spans, threshold=threshold), words.mask)
            for candidates, spans in found
        ]
        return tags, seen
