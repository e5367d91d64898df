"""Laws that every head must keep; each head's tests inherit `HeadContract`."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from mnerfeat.heads.base import IGNORED, Head, HeadConfig, HeadSizes, Images, Words

SIZES = HeadSizes(
    n_tags=5,
    d_text=16,
    text_layers=2,
    text_heads=4,
    columns={
        "vit_cls": 12,
        "quality": 1,
        "relevance": 1,
        "ranked_relevance": 1,
        "grid": 10,
        "regions_grid": 10,
        "regions_count": 1,
        "caption_states": 8,
        "caption_length": 1,
        "tags_states": 8,
        "tags_length": 1,
    },
)
PARTS = {"grid": (2, 3), "regions_grid": (3, 2, 2), "caption_states": (5,), "tags_states": (3,)}
"""Axes between image and vector, of columns that hold several vectors an image."""
LENGTHS = {"regions_count": 3, "caption_length": 5, "tags_length": 3}
"""The most that columns which count such vectors may say."""
WORDS = (4, 1, 6, 3, 2)
"""Words of the posts that the laws are tried on."""
IMAGES = (2, 0, 4, 1, 3)
"""Their images."""

Batch = tuple[Words, Images, Tensor]


def draw(config: HeadConfig, seed: int = 0) -> Batch:
    """A batch of posts with `WORDS` words and `IMAGES` images, and gold tags."""
    generator = torch.Generator().manual_seed(seed)
    word_mask = torch.arange(max(WORDS)) < torch.tensor(WORDS).unsqueeze(1)
    image_mask = torch.arange(max(IMAGES)) < torch.tensor(IMAGES).unsqueeze(1)
    batch = len(WORDS)
    states = torch.randn(batch, max(WORDS), SIZES.d_text, generator=generator)
    columns = {}
    for name, width in SIZES.columns.items():
        if name in PARTS or name in LENGTHS:
            continue
        values = torch.randn(batch, max(IMAGES), width, generator=generator)
        if name == "ranked_relevance":
            values = values.sigmoid()
        values = values * image_mask.unsqueeze(2)
        if name in config.columns:
            columns[name] = values if width > 1 else values.squeeze(2)
    gold = torch.randint(SIZES.n_tags, word_mask.shape, generator=generator)
    columns |= several(image_mask, config.columns, generator)
    return (
        Words(
            states=states * word_mask.unsqueeze(2),
            mask=word_mask,
            sentence=torch.randn(batch, SIZES.d_text, generator=generator),
            seed=torch.arange(batch) * 217,
        ),
        Images(mask=image_mask, columns=columns),
        torch.where(word_mask, gold, IGNORED),
    )


def several(
    image_mask: Tensor, columns: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """Columns that hold several vectors an image, and those that count how many are real."""
    found = {}
    for name in columns:
        if name in PARTS:
            shape = (*image_mask.shape, *PARTS[name], SIZES.columns[name])
            values = torch.randn(shape, generator=generator)
            found[name] = values * image_mask.view(*image_mask.shape, *[1] * (values.ndim - 2))
        elif name in LENGTHS:
            count = torch.randint(LENGTHS[name] + 1, image_mask.shape, generator=generator)
            found[name] = (count * image_mask).float()
    return found


class PrefixReader(Head):
    """A head behind a text encoder of two layers that attends to the head's prefix.

    The laws are about what a head does to emissions; a head that works through the encoder alone
    shows nothing without one. Each layer adds to a word what it attends to in the words and in
    the prefix of the post; its own weights are fixed.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.columns = head.columns
        self.head = head

    def parameter_groups(self):
        return self.head.parameter_groups()

    def prefix(self, images):
        return self.head.prefix(images)

    def forward(self, words, images, gold=None, *, decode=True):
        states = words.states
        for keys, values in self.prefix(images):
            own = states.unflatten(2, (keys.shape[1], -1)).transpose(1, 2)
            all_keys, all_values = (
                torch.cat([each.to(own.dtype), own], dim=2) for each in (keys, values)
            )
            mask = torch.cat([images.mask, words.mask], dim=1)[:, None, None, :]
            scores = own @ all_keys.transpose(2, 3) / own.shape[3] ** 0.5
            shares = scores.masked_fill(~mask, -1e9).softmax(dim=3)
            added = (shares @ all_values).transpose(1, 2).flatten(2)
            states = (states + added) * words.mask.unsqueeze(2)
        return self.head(replace(words, states=states), images, gold, decode=decode)


def unchecked(kind: type, **options: object) -> object:
    """Build a configuration as users do, without the type checks that the tests switch on."""
    config = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(config, field.name, options.get(field.name, field.default))
    config.__post_init__()
    return config


def pad_words(batch: Batch, extra: int) -> Batch:
    words, images, gold = batch
    return (
        replace(
            words,
            states=torch.nn.functional.pad(words.states, (0, 0, 0, extra)),
            mask=torch.nn.functional.pad(words.mask, (0, extra)),
        ),
        images,
        torch.nn.functional.pad(gold, (0, extra), value=IGNORED),
    )


def spread_images(batch: Batch, slots: list[int], width: int) -> Batch:
    """Move image slot i to slot slots[i] of `width` slots; the others are masked."""
    words, images, gold = batch

    def move(x: Tensor) -> Tensor:
        wide = x.new_zeros((x.shape[0], width, *x.shape[2:]))
        wide[:, slots] = x
        return wide

    columns = {name: move(column) for name, column in images.columns.items()}
    return words, Images(mask=move(images.mask), columns=columns), gold


def alone(batch: Batch, post: int) -> Batch:
    """One post of the batch, without any padding but the one image slot that always is."""
    words, images, gold = batch
    n_words, n_images = WORDS[post], max(IMAGES[post], 1)
    return (
        Words(
            states=words.states[post : post + 1, :n_words],
            mask=words.mask[post : post + 1, :n_words],
            sentence=words.sentence[post : post + 1],
            seed=words.seed[post : post + 1],
        ),
        Images(
            mask=images.mask[post : post + 1, :n_images],
            columns={k: v[post : post + 1, :n_images] for k, v in images.columns.items()},
        ),
        gold[post : post + 1, :n_words],
    )


class HeadContract:
    """Inherit it and set `config`; the tests do the rest."""

    config: HeadConfig
    compares_posts = False
    """Whether the loss compares the posts of a batch; tags never do."""

    @pytest.fixture
    def head(self) -> Head:
        torch.manual_seed(0)
        head = self.config.build(SIZES)
        with torch.no_grad():
            # Fresh weights are too small to show much in the tags.
            for parameter in head.parameters():
                parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
        return head.eval()

    @pytest.fixture
    def batch(self) -> Batch:
        return draw(self.config)

    def same(self, got: object, wanted: object, mask: Tensor) -> None:
        assert got.loss is not None
        assert wanted.loss is not None
        torch.testing.assert_close(got.loss, wanted.loss, rtol=1e-4, atol=1e-4)
        assert (got.tags[:, : mask.shape[1]][mask] == wanted.tags[mask]).all()

    def test_reads_the_columns_it_declares_and_no_others(self, head, batch):
        assert head.columns == self.config.columns
        assert set(batch[1].columns) == set(self.config.columns)
        head(*batch)

    def test_padding_of_words_changes_nothing(self, head, batch):
        self.same(head(*pad_words(batch, 3)), head(*batch), batch[0].mask)

    def test_padding_is_ignored_in_tags(self, head, batch):
        tags = head(*batch).tags
        assert ((tags == IGNORED) == ~batch[0].mask).all()
        assert tags[batch[0].mask].ge(0).all()
        assert tags.lt(SIZES.n_tags).all()

    def test_padding_of_images_changes_nothing_wherever_it_stands(self, head, batch):
        slots = [1, 2, 5, 6]
        got, wanted = head(*spread_images(batch, slots, 8)), head(*batch)
        self.same(got, wanted, batch[0].mask)
        for name, values in wanted.images.items():
            torch.testing.assert_close(got.images[name][:, slots], values, rtol=1e-4, atol=1e-5)

    def test_values_in_masked_image_slots_change_nothing(self, head, batch):
        words, images, gold = batch
        columns = {}
        for name, column in images.columns.items():
            mask = images.mask.view(*images.mask.shape, *[1] * (column.ndim - 2))
            columns[name] = torch.where(mask, column, torch.nan)
        got = head(words, replace(images, columns=columns), gold)
        wanted = head(*batch)
        self.same(got, wanted, words.mask)
        for name, values in wanted.images.items():
            torch.testing.assert_close(got.images[name], values)

    def test_image_values_are_zero_where_there_is_no_image(self, head, batch):
        for values in head(*batch).images.values():
            assert values.shape == batch[1].mask.shape
            assert (values[~batch[1].mask] == 0).all()
            assert not values.requires_grad

    def test_a_post_does_not_depend_on_the_others_of_its_batch(self, head, batch):
        whole = head(*batch)
        losses = []
        for post in range(len(WORDS)):
            single = head(*alone(batch, post))
            losses.append(single.loss)
            assert (single.tags[0] == whole.tags[post, : WORDS[post]]).all()
            for name, values in single.images.items():
                torch.testing.assert_close(
                    values[0, : IMAGES[post]],
                    whole.images[name][post, : IMAGES[post]],
                    rtol=1e-4,
                    atol=1e-5,
                )
        if not self.compares_posts:
            mean = torch.stack(losses).mean()
            torch.testing.assert_close(mean, whole.loss, rtol=1e-4, atol=1e-4)

    def test_posts_without_any_image_have_finite_results_and_gradients(self, head, batch):
        words, images, gold = batch
        none = Images(
            mask=torch.zeros(len(WORDS), 1, dtype=torch.bool),
            columns={k: torch.zeros_like(v[:, :1]) for k, v in images.columns.items()},
        )
        out = head(words, none, gold)
        out.loss.backward()
        assert out.loss.isfinite()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_gradients_reach_every_parameter(self, head, batch):
        head(*batch).loss.backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_parameter_groups_hold_every_parameter_once(self, head):
        grouped = [id(x) for group in head.parameter_groups().values() for x in group]
        assert sorted(grouped) == sorted(id(x) for x in head.parameters())

    def test_does_only_what_it_is_asked_for(self, head, batch):
        words, images, gold = batch
        assert head(words, images).loss is None
        assert head(words, images, gold, decode=False).tags is None

    def test_half_precision_around_it_keeps_the_loss_in_float32(self, head, batch):
        wanted = head(*batch).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = head(*batch).loss
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, wanted, rtol=0.05, atol=0.05)

    def test_the_same_seed_builds_the_same_weights(self):
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(self.config.build(SIZES).state_dict())
        assert all((states[0][name] == states[1][name]).all() for name in states[0])
