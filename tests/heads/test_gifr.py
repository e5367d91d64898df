import math

import pytest
import torch

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadSizes, Images
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.relevance_graph import SinusoidalPositions

from .contract import IMAGES, SIZES, HeadContract, PrefixReader, draw, spread_images, unchecked


class GifrContract(HeadContract):
    """The laws, behind an encoder that reads the prompts."""

    @pytest.fixture
    def head(self):
        torch.manual_seed(0)
        head = PrefixReader(self.config.build(SIZES))
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
        return head.eval()

    def test_images_change_the_tags_of_posts_that_have_some(self, head, batch):
        words, images, gold = batch
        none = Images(mask=torch.zeros_like(images.mask), columns=images.columns)
        with_images, without = head(words, images, gold), head(words, none, gold)
        assert not torch.allclose(with_images.loss, without.loss)
        lone = images.mask.sum(dim=1) == 0
        assert (with_images.tags[lone] == without.tags[lone]).all()

    def test_keys_and_values_fit_every_layer_of_the_text_encoder(self, head, batch):
        prefix = head.prefix(batch[1])
        assert len(prefix) == SIZES.text_layers
        wanted = (len(IMAGES), SIZES.text_heads, max(IMAGES), SIZES.d_text // SIZES.text_heads)
        assert all(each.shape == wanted for layer in prefix for each in layer)
        assert not torch.allclose(prefix[0][0], prefix[1][0])


class TestGifr(GifrContract):
    config = GifrConfig(dropout=0.0)

    def test_tells_r_and_whether_the_image_ranks_before_the_blank(self, head, batch):
        seen = head(*batch).images
        images = batch[1]
        assert set(seen) == {"ranked_relevance", "before_blank"}
        torch.testing.assert_close(seen["ranked_relevance"], images["ranked_relevance"])
        assert seen["before_blank"].dtype == torch.bool
        assert (seen["before_blank"] == (images["ranked_relevance"] > 0.5)).all()

    def with_relevance(self, images, relevance):
        return Images(mask=images.mask, columns={**images.columns, "ranked_relevance": relevance})

    def test_the_less_relevant_the_images_the_less_of_them_is_left(self, head, batch):
        images = batch[1]
        interact = head.head.fusion.interact
        half = self.with_relevance(images, images["ranked_relevance"] / 2)
        torch.testing.assert_close(interact(half), interact(images) / 2)
        none = self.with_relevance(images, torch.zeros_like(images["ranked_relevance"]))
        assert (interact(none) == 0).all()

    def test_relevance_scales_columns_so_rows_no_longer_sum_to_one(self, head, batch):
        images = batch[1]
        attention = head.head.fusion.graph[0].attention
        with torch.no_grad():
            attention.value.weight.zero_()
            attention.value.bias.fill_(1)  # so that U holds the sums of the weights
        u = head.head.fusion.interact(images)
        most = images["ranked_relevance"].amax(dim=1)[:, None, None].expand_as(u)
        assert (u[images.mask] < most[images.mask] + 1e-6).all()
        assert (u[images.mask] > 0).all()

    def test_one_image_makes_r_a_plain_gate(self, head, batch):
        images = batch[1]
        one = Images(
            mask=images.mask[:, :1], columns={k: v[:, :1] for k, v in images.columns.items()}
        )
        fusion = head.head.fusion
        gated = fusion.interact(one)
        h = fusion.embedding(one["vit_cls"], one.mask)
        value = fusion.graph[0].attention.value(h)
        wanted = one["ranked_relevance"].unsqueeze(2) * value
        torch.testing.assert_close(gated[one.mask], wanted[one.mask])

    def test_degrees_tell_only_the_number_of_images(self, head, batch):
        images = batch[1]
        fusion = head.head.fusion
        moved = spread_images(batch, [3, 2, 1, 0], 4)[1]
        added = fusion.embedding(images["vit_cls"], images.mask) - images["vit_cls"]
        again = fusion.embedding(moved["vit_cls"], moved.mask) - moved["vit_cls"]
        torch.testing.assert_close(added[:, 0], again[:, 3])
        counts = images.mask.sum(dim=1)
        for post, count in enumerate(counts.tolist()):
            if count:
                torch.testing.assert_close(
                    added[post, 0], fusion.embedding.vectors.weight[count - 1]
                )

    def test_more_images_than_the_table_has_share_its_last_vector(self):
        embedding = GifrConfig(most_images=2).build(SIZES).fusion.embedding
        image, mask = torch.zeros(1, 5, 12), torch.ones(1, 5, dtype=torch.bool)
        torch.testing.assert_close(embedding(image, mask)[0, 0], embedding.vectors.weight[1])


class TestGifrStandard(GifrContract):
    config = GifrConfig(dropout=0.0, block="standard")


class TestGifrStandardOfTwoLayers(GifrContract):
    config = GifrConfig(dropout=0.0, block="standard", layers=2, attention_heads=3)


class TestGifrWithoutDiscriminator(GifrContract):
    config = GifrConfig(dropout=0.0, ablation="no-d")

    def test_equals_the_whole_with_r_set_to_one(self, head, batch):
        images = batch[1]
        torch.manual_seed(5)
        whole = GifrConfig(dropout=0.0).build(SIZES)
        torch.manual_seed(5)
        without = self.config.build(SIZES)
        ones = Images(
            mask=images.mask,
            columns={**images.columns, "ranked_relevance": images.mask.float()},
        )
        for mine, theirs in zip(without.prefix(images), whole.prefix(ones), strict=True):
            torch.testing.assert_close(mine, theirs)


class TestGifrWithLearnedPositions(GifrContract):
    config = GifrConfig(dropout=0.0, ablation="no-p", positions="learned")

    def test_positions_count_the_images_that_exist(self, head, batch):
        fusion = head.head.fusion
        images = batch[1]
        moved = spread_images(batch, [1, 2, 5, 6], 8)[1]
        one = fusion.embedding(images["vit_cls"], images.mask)
        other = fusion.embedding(moved["vit_cls"], moved.mask)
        torch.testing.assert_close(other[moved.mask], one[images.mask])


class TestGifrWithSinusoidalPositions(TestGifrWithLearnedPositions):
    config = GifrConfig(dropout=0.0, ablation="no-p")

    def test_adds_the_vectors_of_the_original_transformer(self, head, batch):
        embedding = head.head.fusion.embedding
        assert not list(embedding.parameters())
        images = batch[1]
        added = embedding(images["vit_cls"], images.mask) - images["vit_cls"]
        size = images["vit_cls"].shape[2]
        for post, count in enumerate(IMAGES):
            for place in range(count):
                wanted = [
                    (math.cos if number % 2 else math.sin)(
                        place / 10_000 ** (number // 2 * 2 / size)
                    )
                    for number in range(size)
                ]
                got = added[post, place]
                torch.testing.assert_close(got, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_sinusoidal_positions_fit_vectors_of_odd_size():
    added = SinusoidalPositions()(torch.zeros(1, 2, 5), torch.ones(1, 2, dtype=torch.bool))
    assert added[0, 0].tolist() == [0, 1, 0, 1, 0]


class TestGifrWithoutGraph(GifrContract):
    config = GifrConfig(dropout=0.0, ablation="no-g")

    def test_images_become_prompts_as_they_are(self, head, batch):
        torch.testing.assert_close(head.head.fusion.interact(batch[1]), batch[1]["vit_cls"])


# --- equations 2 to 7, transcribed with plain loops --------------------------------------------


def times(weight, x, bias=None):
    """W x, with lists."""
    rows = [sum(w * a for w, a in zip(row, x, strict=True)) for row in weight]
    return rows if bias is None else [a + b for a, b in zip(rows, bias, strict=True)]


def softmax(scores):
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def relevance(rewards, blank):
    return [1 / (1 + math.exp(-(r - blank))) for r in rewards]  # eq. 2


def interaction(fusion, vit, r, *, heads):
    """Eqs. 3 and 4 for one post, in lists."""
    m = len(vit)
    z = fusion.embedding.vectors.weight[m - 1].tolist()
    h = [[a + b for a, b in zip(v, z, strict=True)] for v in vit]  # eq. 3
    layer = fusion.graph[0].attention
    q, k, v = (
        [times(part.weight.tolist(), x, part.bias.tolist()) for x in h]
        for part in (layer.query, layer.key, layer.value)
    )
    size = SIZES.columns["vit_cls"] // heads
    u = []
    for i in range(m):
        row = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            shares = softmax(
                [
                    sum(a * b for a, b in zip(q[i][part], k[j][part], strict=True))
                    / math.sqrt(size)
                    for j in range(m)
                ]
            )
            weights = [share * r[j] for j, share in enumerate(shares)]  # ⊙ R
            row += [sum(weights[j] * v[j][part][c] for j in range(m)) for c in range(size)]
        u.append(row)  # eq. 4
    return u


def prompted_attention(fusion, layer, u, queries, keys, values, *, heads):
    """Eqs. 5 to 7 for one text layer and one post, in lists; heads concatenated."""
    prompts = fusion.prompts
    p = [times(prompts.prompt[layer].weight.tolist(), row) for row in u]  # eq. 5
    k_p = [times(prompts.key[layer].weight.tolist(), row) for row in p]  # eq. 6
    v_p = [times(prompts.value[layer].weight.tolist(), row) for row in p]
    all_keys, all_values = k_p + keys, v_p + values
    size = len(queries[0]) // heads
    out = []
    for query in queries:
        row = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            shares = softmax(
                [
                    sum(a * b for a, b in zip(query[part], key[part], strict=True))
                    / math.sqrt(size)
                    for key in all_keys
                ]
            )
            row += [
                sum(s * value[part][c] for s, value in zip(shares, all_values, strict=True))
                for c in range(size)
            ]
        out.append(row)  # eq. 7
    return out


def sharpened(config, seed):
    torch.manual_seed(seed)
    fusion = config.build(SIZES).fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return fusion


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_agrees_with_a_plain_transcription_of_equations_2_to_7(heads):
    config = GifrConfig(dropout=0.0, attention_heads=heads)
    fusion = sharpened(config, seed=1)
    _, images, _ = draw(config, seed=4)
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randn(images.mask.shape, generator=generator, dtype=torch.double)
    blanks = torch.randn(len(IMAGES), generator=generator, dtype=torch.double)
    ranked = torch.sigmoid(rewards - blanks.unsqueeze(1)) * images.mask
    images = Images(
        mask=images.mask,
        columns={"vit_cls": images["vit_cls"].double(), "ranked_relevance": ranked},
    )
    u = fusion.interact(images)
    prefix = fusion.prefix(images)
    for post, count in enumerate(IMAGES):
        r = relevance(rewards[post, :count].tolist(), blanks[post].item())
        wanted = interaction(fusion, images["vit_cls"][post, :count].tolist(), r, heads=heads)
        # R and the softmax are computed in float32 whatever the precision around them.
        got = u[post, :count]
        if count:
            torch.testing.assert_close(
                got, torch.tensor(wanted, dtype=torch.double), rtol=1e-5, atol=1e-5
            )
        for layer, (keys, values) in enumerate(prefix):
            text = [
                torch.randn(3, SIZES.d_text, generator=generator, dtype=torch.double)
                for _ in range(3)
            ]
            plain = prompted_attention(
                fusion,
                layer,
                wanted,
                *(each.tolist() for each in text),
                heads=SIZES.text_heads,
            )
            query, key, value = (
                each.view(3, SIZES.text_heads, -1).transpose(0, 1) for each in text
            )
            both = torch.nn.functional.scaled_dot_product_attention(
                query,
                torch.cat([keys[post, :, :count], key], dim=1),
                torch.cat([values[post, :, :count], value], dim=1),
            )
            torch.testing.assert_close(
                both.transpose(0, 1).reshape(3, -1),
                torch.tensor(plain, dtype=torch.double),
                rtol=1e-5,
                atol=1e-5,
            )


def test_standard_blocks_put_residual_norm_and_feed_forward_layer_around_equation_4():
    config = GifrConfig(dropout=0.0, block="standard")
    fusion = sharpened(config, seed=3)
    _, images, _ = draw(config, seed=4)
    images = Images(mask=images.mask, columns={k: v.double() for k, v in images.columns.items()})
    layer = fusion.graph[0]
    h = fusion.embedding(images["vit_cls"], images.mask)
    u = layer.attention(h, images["ranked_relevance"], images.mask)
    x = torch.nn.functional.layer_norm(
        h + layer.output(u), (12,), layer.norms[0].weight, layer.norms[0].bias
    )
    hidden = torch.nn.functional.gelu(layer.feed_forward[0](x))
    wanted = torch.nn.functional.layer_norm(
        x + layer.feed_forward[3](hidden), (12,), layer.norms[1].weight, layer.norms[1].bias
    )
    torch.testing.assert_close(fusion.interact(images)[images.mask], wanted[images.mask])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ablation", "no-x"),
        ("block", "literally"),
        ("positions", "relative"),
        ("layers", 0),
        ("attention_heads", 0),
        ("most_images", 0),
        ("dropout", 1.0),
    ],
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=rf"head\.gifr\.{option} is {value!r}"):
        unchecked(GifrConfig, **{option: value})


def test_attention_heads_must_divide_the_image_vectors():
    with pytest.raises(ConfigError, match=r"head\.gifr\.attention_heads is 5.*12 dimensions"):
        GifrConfig(attention_heads=5).build(SIZES)


def test_attention_heads_are_the_text_encoders_where_they_divide_the_image_vectors():
    def heads(d_image):
        sizes = HeadSizes(
            n_tags=5,
            d_text=16,
            text_layers=2,
            text_heads=4,
            columns={"vit_cls": d_image, "ranked_relevance": 1},
        )
        return GifrConfig().build(sizes).fusion.graph[0].attention.attention_heads

    assert (heads(12), heads(10)) == (4, 1)
