"""The whole head: what it finds, whatever the post, and what each ablation takes away."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import IGNORED, Images, Words
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig, packing
from mnerfeat.heads.dpe.entities import NEVER, Scores, gold_entities
from mnerfeat.heads.dpe.packing import Packed
from tests.heads.contract import SIZES, WORDS, alone, draw

SMALL: dict[str, Any] = {"spans": 24, "dropout": 0.0, "threshold": 1.0}


def built(config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return config.build(SIZES).eval()


def text(lengths: list[int], seed: int = 0) -> Words:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    states = torch.randn(*mask.shape, SIZES.d_text, generator=generator) * mask.unsqueeze(2)
    sentence = torch.randn(len(lengths), SIZES.d_text, generator=generator)
    return Words(states=states, mask=mask, sentence=sentence, seed=torch.arange(len(lengths)))


def no_images(posts: int) -> Images:
    return Images(mask=torch.zeros(posts, 1, dtype=torch.bool), columns={})


class Perfect(nn.Module):
    """In the place of the decoder: each different span stands for one of the gold entities."""

    def __init__(self, gold: Tensor) -> None:
        super().__init__()
        self.entities = [gold_entities(row) for row in gold.tolist()]

    def context(self, words: Tensor) -> tuple[Tensor, Tensor]:
        return words, words

    def forward(self, spans: Packed, words: Any, mask: Tensor) -> Scores:
        batch, n_spans = spans.count.shape
        shape = (batch, n_spans, mask.shape[1])
        left, right = torch.full(shape, NEVER), torch.full(shape, NEVER)
        kind = torch.full((batch, n_spans, 3), NEVER)
        for post, entities in enumerate(self.entities):
            for span in range(n_spans):
                if not entities:
                    left[post, span, 0] = right[post, span, 0] = kind[post, span, 0] = 9
                    continue
                first, last, number = entities[span % len(entities)]
                left[post, span, first] = right[post, span, last] = 9
                kind[post, span, number + 1] = 9
        return Scores(left=left, right=right, kind=kind)


def test_a_perfect_predictor_recovers_the_gold_entities_after_every_step() -> None:
    words = text([9, 1, 30, 4])
    gold = torch.full(words.mask.shape, IGNORED)
    gold[words.mask] = 0
    gold[0, [0, 2, 3, 8]] = torch.tensor([1, 3, 4, 1])
    gold[1, 0] = 3
    gold[2, 5:25] = torch.tensor([1, *[2] * 19])
    head = built(IterativeConfig(spans=24))
    head.decoder = Perfect(gold)
    found = head(words, no_images(4))
    assert len(found.steps) == 5
    for tags in found.steps:
        assert torch.equal(tags, gold)
    loss = head(words, no_images(4), gold).loss
    assert 0 <= float(loss) < 0.1


@pytest.mark.parametrize("config", [IterativeConfig(**SMALL), DpeConfig(**SMALL)])
def test_a_post_has_the_same_entities_at_every_batch_size(config: Any) -> None:
    head = built(config)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
    words, images, _ = batch = draw(config)
    together = head(words, images)
    found = set()
    for post, length in enumerate(WORDS):
        single = head(*alone(batch, post)[:2])
        for step, wanted in zip(single.steps, together.steps, strict=True):
            assert torch.equal(step[0], wanted[post, :length])
        found |= set(single.tags[0].tolist())
    assert len(found) > 1
    twice = Words(
        states=words.states.repeat(2, 1, 1),
        mask=words.mask.repeat(2, 1),
        sentence=words.sentence.repeat(2, 1),
        seed=words.seed.repeat(2),
    )
    pictures = Images(
        mask=images.mask.repeat(2, 1),
        columns={name: torch.cat([x, x]) for name, x in images.columns.items()},
    )
    assert torch.equal(head(twice, pictures).tags[: len(WORDS)], together.tags)


@pytest.mark.parametrize("ablation", [None, "none", "no-dmf", "moe"])
def test_padding_that_is_kept_as_on_a_gpu_changes_nothing(
    ablation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IterativeConfig(**SMALL) if ablation is None else DpeConfig(**SMALL, ablation=ablation)
    head = built(config)
    words, images, gold = draw(config)
    losses, tags = [], []
    for kept in (False, True):
        if kept:
            monkeypatch.setattr(packing, "real_rows", lambda _: None)
        found = head(words, images, gold)
        head.zero_grad()
        found.loss.backward()
        gradients = [x.grad for x in head.parameters() if x.grad is not None]
        losses.append([found.loss.detach(), *gradients])
        tags.append(found.tags)
    assert torch.equal(*tags)
    assert len(losses[0]) > 10
    for got, wanted in zip(*losses, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lengths", [[1], [200], [1, 200, 7]])
def test_posts_of_one_word_and_of_200_words_can_be_learned_from_and_tagged(
    lengths: list[int],
) -> None:
    words = text(lengths)
    head = built(IterativeConfig(spans=30)).train()
    gold = torch.where(words.mask, torch.tensor(0), IGNORED)
    gold[:, 0] = 1
    head(words, no_images(len(lengths)), gold, decode=False).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    tags = head.eval()(words, no_images(len(lengths))).tags
    assert ((tags == IGNORED) == ~words.mask).all()


def test_a_post_without_entities_teaches_nil_and_nothing_of_boundaries() -> None:
    words = text([5, 3])
    head = built(IterativeConfig(spans=24)).train()
    gold = torch.where(words.mask, torch.tensor(0), IGNORED)
    head(words, no_images(2), gold, decode=False).loss.backward()
    assert head.decoder.kinds.weight.grad.abs().sum() > 0
    for pointer in (head.decoder.left, head.decoder.right):
        assert all(not parameter.grad.any() for parameter in pointer.parameters())


def test_more_entities_than_noisy_spans_are_survived() -> None:
    words = text([12])
    head = built(IterativeConfig(spans=4)).train()
    gold = torch.full((1, 12), 1)
    assert head(words, no_images(1), gold, decode=False).loss.isfinite()


def test_training_noise_is_drawn_anew_and_in_use_it_is_not() -> None:
    words, gold = text([6, 4]), torch.zeros(2, 6, dtype=torch.long)
    gold[:, 1] = 1
    head = built(IterativeConfig(spans=24, dropout=0.0))
    assert head(words, no_images(2), gold).loss == head(words, no_images(2), gold).loss
    head.train()
    losses = {float(head(words, no_images(2), gold, decode=False).loss.detach()) for _ in range(4)}
    assert len(losses) == 4


@pytest.mark.parametrize("config", [IterativeConfig(**SMALL), DpeConfig(**SMALL)])
def test_tags_can_be_had_while_training(config: Any) -> None:
    head = built(config)
    words, images, gold = draw(config)
    wanted = head(words, images).tags
    found = head.train()(words, images, gold)
    assert len(found.steps) == 5
    assert torch.equal(found.tags, wanted)
    assert found.loss.requires_grad


class TestThreshold:
    def learned(self, config: Any) -> tuple[Any, Words, Tensor]:
        words = text([7, 5, 8, 6], seed=3)
        gold = torch.where(words.mask, torch.tensor(0), IGNORED)
        gold[0, 1:3] = torch.tensor([1, 2])
        gold[1, 0] = 3
        torch.manual_seed(0)
        head = config.build(SIZES).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
        for _ in range(30):
            optimizer.zero_grad()
            head(words, no_images(4), gold, decode=False).loss.backward()
            optimizer.step()
        return head.eval(), words, gold

    def test_is_chosen_on_dev_and_saved_with_the_weights(self) -> None:
        config = IterativeConfig(spans=12, dropout=0.0, attention_size=16)
        head, words, gold = self.learned(config)
        assert float(head.threshold) == 2.5
        candidates = head(words, no_images(4)).candidates
        tags, logged = head.calibrate(gold, candidates)
        assert logged == {"threshold": float(head.threshold)}
        assert float(head.threshold) != 2.5
        assert torch.equal(head(words, no_images(4)).tags, tags)
        again = config.build(SIZES).eval()
        again.load_state_dict(head.state_dict())
        assert torch.equal(again(words, no_images(4)).tags, tags)

    def test_that_is_given_wins(self) -> None:
        config = IterativeConfig(spans=12, dropout=0.0, attention_size=16, threshold=0.3)
        head, words, gold = self.learned(config)
        tags, logged = head.calibrate(gold, head(words, no_images(4)).candidates)
        assert logged["threshold"] == pytest.approx(0.3)
        assert torch.equal(head(words, no_images(4)).tags, tags)
        other = replace(config, threshold=3.0).build(SIZES).eval()
        other.load_state_dict(head.state_dict())
        assert float(other.threshold) == 3.0

    def test_stays_if_no_candidate_is_correct(self) -> None:
        head = built(IterativeConfig(spans=12))
        words = text([3])
        candidates = head(words, no_images(1)).candidates
        gold = torch.zeros(1, 3, dtype=torch.long)
        head.calibrate(gold, candidates)
        assert float(head.threshold) == 2.5


def test_a_few_posts_are_learned_by_heart() -> None:
    words = text([7, 5, 8, 6], seed=3)
    gold = torch.where(words.mask, torch.tensor(0), IGNORED)
    gold[0, 1:3] = torch.tensor([1, 2])
    gold[0, 5] = 3
    gold[1, 0] = 3
    gold[3, 2:6] = torch.tensor([3, 4, 4, 4])
    torch.manual_seed(0)
    head = IterativeConfig(spans=12, dropout=0.0, attention_size=16).build(SIZES).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        head(words, no_images(4), gold, decode=False).loss.backward()
        optimizer.step()
    assert torch.equal(head.eval()(words, no_images(4)).tags, gold)


class TestAblations:
    def loss(self, **options: Any) -> float:
        config = DpeConfig(**SMALL, **options)
        head = built(config)
        return float(head(*draw(config)).loss.detach())

    def test_without_crm_the_gates_stay_and_the_losses_go(self) -> None:
        full, bare = (built(DpeConfig(**SMALL, ablation=name)) for name in ("none", "no-crm"))
        assert full.state_dict().keys() == bare.state_dict().keys()
        assert self.loss(ablation="no-crm") < self.loss()

    def test_without_a_level_its_loss_goes(self) -> None:
        bare, full = self.loss(ablation="no-crm"), self.loss()
        left = [self.loss(ablation=f"no-{level}") for level in ("token", "sentence", "span")]
        assert sum(full - one for one in left) == pytest.approx(full - bare, abs=1e-3)
        assert len({round(one, 4) for one in left}) == 3

    @pytest.mark.parametrize(
        ("ablation", "gone"), [("no-coarse", ("grid", "caption")), ("no-fine", ("regions", "tags"))]
    )
    def test_without_a_granularity_its_columns_are_not_read(
        self, ablation: Any, gone: tuple[str, ...]
    ) -> None:
        columns = DpeConfig(ablation=ablation).columns
        assert columns
        assert not any(column.startswith(gone) for column in columns)

    def test_reversed_priorities_change_what_is_found(self) -> None:
        names = ("none", "reverse-grain", "reverse-gap", "reverse-both", "no-pmi", "no-dmf")
        assert len({round(self.loss(ablation=name), 4) for name in names}) == len(names)

    @pytest.mark.parametrize("ablation", ["max-pool", "mean-pool", "mlp", "moe"])
    def test_static_fusion_is_bert_iterative_on_other_words(self, ablation: Any) -> None:
        head, plain = built(DpeConfig(**SMALL, ablation=ablation)), built(IterativeConfig(**SMALL))
        inner = {name for name, _ in head.named_parameters() if ".fusion." not in name}
        assert inner == {name for name, _ in plain.named_parameters()}
        assert head.alignment is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spans": 0}, "head.dpe.spans is 0"),
        ({"steps": 2000}, "at most timesteps"),
        ({"attention_heads": 3}, "it must divide 128"),
        ({"threshold": 3.5}, "in [0, 3]"),
        ({"dropout": 1.0}, "in [0, 1)"),
        ({"scale": 0.0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"gap_share": 0.6, "schedule": "intent"}, "in [0, 0.5]"),
        ({"alignment_share": 2.0}, "in [0, 1]"),
        ({"bottlenecks": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DpeConfig(**options)
    assert said in str(refused.value)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        replace(IterativeConfig(), spans=0, threshold=-1.0, dropout=2.0)
    assert len(refused.value.faults) == 3
