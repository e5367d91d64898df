"""The head around a reasoning network: noise, reasoning steps, loss and threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnerfeat.heads.base import (
    Candidates,
    Head,
    HeadOutput,
    Images,
    KeyValues,
    ParameterGroup,
    Words,
)
from mnerfeat.heads.dpe.diffusion import Diffusion, Signal, seeded_noise, to_signal, to_words
from mnerfeat.heads.dpe.entities import (
    Decoded,
    Entities,
    EntityDecoder,
    LossOptions,
    Scores,
    above,
    best_threshold,
    find_targets,
    gold_entities,
    matching_loss,
    repetitions,
)
from mnerfeat.heads.dpe.fusion import Context, Fused, Text, Timestep, alignment_loss
from mnerfeat.heads.dpe.network import ReasoningNetwork
from mnerfeat.heads.dpe.packing import Spans

FIRST_THRESHOLD = 2.5
"""The threshold of DiffusionNER, until one is chosen on dev."""

PointerWords = tuple[Float[Tensor, "batch words d"], Float[Tensor, "batch words d"]]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The relevance losses of eq. 20.

    Attributes:
        texts: Text granularities that take part.
        temperature: τ of eqs. 17 and 18.
        text_share: λ_rel of eq. 19.
    """

    texts: tuple[Text, ...]
    temperature: float
    text_share: float


class DiffusionHead(Head):
    """Entities by iterative reasoning: noisy spans that become entities step by step.

    Training: the gold spans, repeated to fill N_s noisy spans, get the noise of a random timestep
    (eq. 1), and the network has to recover the entities. Inference: N_s spans of pure noise are
    taken back to entities in a few steps of DDIM; the entities of the last step with a score above
    the threshold are the answer. A post without entities has one span over all of it in place of
    gold ones, and each of its spans has to become NIL.

    In training the noise comes from torch's generator. In evaluation mode, and wherever tags are
    asked for, it depends on each post's seed alone, so no result depends on other posts.

    Zheng et al. 2024, "Decompose, Prioritize, and Eliminate: Dynamically Integrating Diverse
    Representations for Multi-modal Named Entity Recognition". docs/dpe.md lists all that differs
    from the paper, and all that it leaves open. What matters most:

    Differs from the paper: the boundary pointers have an activation (without one, every span
    points to the same word); rel has a hidden layer; L_NER is a mean over spans (`loss="sum"` is
    the printed form).

    Not stated in the paper: the pointers' activation is a square, with which spans part within 320
    steps of the toy world; with DiffusionNER's ReLU 4 in 5 of the entities in posts with two were
    found after 640, and 1 in 5 after 256 (`pointer="relu"`). The threshold is chosen on dev.

    Args:
        network: The reasoning network.
        decoder: From its span representations to boundaries and types.
        diffusion: Noise and timesteps.
        spans: N_s.
        scale: Half the range of the diffusion's signal.
        loss: How matching and loss weigh their parts.
        threshold: Entities need a higher score, 0 to 3; None to choose it on dev.
        alignment: The relevance losses; None for none.
    """

    threshold: Tensor

    def __init__(
        self,
        network: ReasoningNetwork,
        decoder: EntityDecoder,
        diffusion: Diffusion,
        *,
        spans: int,
        scale: float,
        loss: LossOptions,
        threshold: float | None,
        alignment: Alignment | None,
    ) -> None:
        super().__init__()
        self.columns = () if network.fusion is None else network.fusion.columns
        self.network = network
        self.decoder = decoder
        self.diffusion = diffusion
        self.spans = spans
        self.scale = scale
        self.loss = loss
        self.alignment = alignment
        self.calibrated = threshold is None
        value = FIRST_THRESHOLD if threshold is None else threshold
        # A chosen threshold is saved with the weights; one that is given is an option.
        self.register_buffer("threshold", torch.tensor(value), persistent=self.calibrated)

    def parameter_groups(self) -> dict[ParameterGroup, list[torch.nn.Parameter]]:
        """All parameters learn at one rate."""
        return {"fusion": list(self.parameters()), "crf": [], "scalars": []}

    def prefix(self, images: Images) -> KeyValues | None:  # noqa: ARG002
        """None: the images meet the text after the encoder."""
        return None

    def calibrate(
        self, gold: Int[Tensor, "posts words"], candidates: Candidates
    ) -> tuple[Int[Tensor, "posts words"], dict[str, float]]:
        """Choose the threshold with the highest F1 on dev, unless it is given."""
        if self.calibrated:
            best = best_threshold(gold, candidates)
            if best is not None:
                self.threshold.fill_(best)
        threshold = float(self.threshold)
        return above(candidates, threshold), {"threshold": threshold}

    def forward(
        self,
        words: Words,
        images: Images,
        gold: Int[Tensor, "batch words"] | None = None,
        *,
        decode: bool = True,
    ) -> HeadOutput:
        """Return L_NER plus the relevance losses, and the entities after each reasoning step."""
        context = self.network.context(words, images)
        pointed = self.decoder.context(context.words.states)
        loss = None
        if gold is not None:
            entities = [gold_entities(row) for row in gold.tolist()]
            loss = self._loss(context, pointed, images, entities)
        if not decode:
            return HeadOutput(loss=loss, tags=None)
        steps, relevance = self._reason(context, pointed)
        threshold = float(self.threshold)
        tags = tuple(above(candidates, threshold) for candidates in steps)
        return HeadOutput(
            loss=loss,
            tags=tags[-1],
            images={} if relevance is None else {"relevance": relevance},
            steps=tags,
            candidates=steps[-1],
        )

    def _loss(
        self,
        context: Context,
        pointed: PointerWords,
        images: Images,
        entities: Sequence[Entities],
    ) -> Float[Tensor, ""]:
        """Eq. 20."""
        words = context.words
        shape, device = (len(words.mask),), words.states.device
        if self.training:
            noise = torch.randn(*shape, self.spans, 2, device=device)
            time = torch.randint(self.diffusion.timesteps, shape, device=device)
        else:
            seeds = torch.zeros(shape, dtype=torch.long) if words.seed is None else words.seed
            time = seeds.to(device) % self.diffusion.timesteps
            noise = self.seeded_noise(words)[0]
        noisy = self.diffusion.add_noise(self._gold_signal(words, entities), noise, time)
        pairs = self.alignment is not None
        scores, fused, spans = self._step(context, pointed, noisy, time, pairs=pairs)
        targets = find_targets(scores, spans, entities, self.loss)
        loss = matching_loss(scores, targets, self.loss).mean()
        if self.alignment is None:
            return loss
        terms = [
            alignment_loss(
                fused.pairs[text],
                images.mask.any(dim=1),
                temperature=self.alignment.temperature,
                text_share=self.alignment.text_share,
            )
            for text in self.alignment.texts
        ]
        return loss + torch.stack(terms).sum()

    def _gold_signal(self, words: Words, entities: Sequence[Entities]) -> Signal:
        """Return z_0: the gold spans, repeated to fill the noisy ones."""
        last = words.mask.sum(dim=1) - 1
        filled = []
        for found, end in zip(entities, last.tolist(), strict=True):
            gold = found or [(0, end, 0)]
            times = repetitions(len(gold), self.spans)
            spans = [span[:2] for span, n in zip(gold, times, strict=True) for _ in range(n)]
            filled.append(spans[: self.spans])
        left, right = torch.tensor(filled, device=last.device).unbind(dim=2)
        return to_signal(left, right, last, scale=self.scale)

    def seeded_noise(self, words: Words) -> Float[Tensor, "steps batch noisy 2"]:
        """Draw the noise of all reasoning steps from each post's seed."""
        seeds = [0] * len(words.mask) if words.seed is None else words.seed.tolist()
        steps = len(self.diffusion.times)
        return seeded_noise(seeds, spans=self.spans, steps=steps).to(words.states.device)

    def _step(
        self,
        context: Context,
        pointed: PointerWords,
        noisy: Signal,
        time: Int[Tensor, " batch"],
        *,
        pairs: bool = False,
    ) -> tuple[Scores, Fused, Spans]:
        """Take one reasoning step: from a noisy signal to predictions for its spans."""
        mask = context.words.mask
        spans = Spans.distinct(*to_words(noisy, mask.sum(dim=1) - 1, scale=self.scale))
        step = Timestep(time=time, signal=self.diffusion.signal_share(time))
        states, fused = self.network(context, spans, step, pairs=pairs)
        return self.decoder(states, pointed, mask), fused, spans

    @torch.no_grad()
    def _reason(
        self, context: Context, pointed: PointerWords
    ) -> tuple[list[Candidates], Float[Tensor, "batch images"] | None]:
        """Return the candidates after each step, and the images' relevance in the last one."""
        mask = context.words.mask
        last = mask.sum(dim=1) - 1
        found: list[Candidates] = []
        relevance: Tensor | None = None

        def predict(noisy: Signal, time: int) -> Signal:
            nonlocal relevance
            times = torch.full_like(last, time)
            scores, fused, spans = self._step(context, pointed, noisy, times)
            decoded = Decoded.of(scores)
            found.append(decoded.candidates(spans, mask))
            relevance = fused.relevance
            left, right = (x.gather(1, spans.index) for x in (decoded.left, decoded.right))
            return to_signal(left, right, last, scale=self.scale)

        self.diffusion.sample(self.seeded_noise(context.words), predict)
        return found, relevance
