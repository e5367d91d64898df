"""GIFR in the text encoders that it is made for, from words and images to emissions."""

import pytest
import torch

from mnerfeat.datasets import Post, TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger, gold_ids, pad_ids
from mnerfeat.text import TextConfig, TextEncoder
from tests.test_text import CORPUS, PREFIXABLE, make

IMAGES = (2, 0, 4)
SIZES = {"vit_cls": 6, "ranked_relevance": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = make(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


def posts():
    some = []
    for number, (text, images) in enumerate(zip(CORPUS, IMAGES, strict=False)):
        words = tuple(text.split())
        tags = ("B-PER", *["O"] * (len(words) - 1))
        names = tuple(f"{number}_{slot}.jpg" for slot in range(images))
        some.append(Post(id=str(number), words=words, tags=tags, images=names))
    return some


def table(counts=IMAGES):
    """Images of the posts, drawn so that a post's do not depend on the others'."""
    rows = torch.full((len(counts), max(1, *counts)), -1)
    vectors, relevance = [], torch.zeros(rows.shape)
    for post, count in enumerate(counts):
        generator = torch.Generator().manual_seed(post)
        rows[post, :count] = torch.arange(len(vectors), len(vectors) + count)
        vectors += list(torch.randn(count, 6, generator=generator))
        relevance[post, :count] = torch.rand(count, generator=generator)
    stacked = torch.stack(vectors) if vectors else torch.zeros(0, 6)
    return VisionTable(rows, {"vit_cls": stacked}, {"ranked_relevance": relevance})


def tagger(folder, head):
    encoder = TextEncoder.from_pretrained(TextConfig(encoder=str(folder)))
    built = Tagger.build(encoder, head, TagSet(), column_sizes=SIZES, seed=1)
    with torch.no_grad():
        for parameter in built.head.parameters():
            parameter.mul_(2)  # so that images are not lost among the text
    return built


def word_states(tagger, some, images, numbers):
    """Of some of the posts, in a batch of these alone."""
    pieces = tagger.encoder.tokenizer.batch(
        tagger.encoder.tokenizer([some[number].words for number in numbers])
    )
    found = tagger.images(images, torch.tensor(numbers))
    prefix = tagger.head.prefix(found)
    return tagger.encoder(pieces, prefix, found.mask)[0]


@pytest.mark.parametrize("block", ["literal", "standard"])
@pytest.mark.parametrize("family", PREFIXABLE)
def test_a_post_s_states_do_not_depend_on_the_texts_and_images_beside_it(folders, family, block):
    built = tagger(folders(family), GifrConfig(block=block)).eval()
    some, images = posts(), table()
    together = word_states(built, some, images, [0, 1, 2])
    bare = word_states(built, some, table((0, 0, 0)), [0, 1, 2])
    for number, post in enumerate(some):
        alone = word_states(built, some, images, [number])[0]
        torch.testing.assert_close(alone, together[number, : len(post.words)])
        changed = (alone - bare[number, : len(post.words)]).abs().max()
        assert (changed > 1e-3) == bool(post.images)


def test_without_any_image_it_trains_as_text_alone_does(folders):
    """The same weights after the same steps: a post without images is no worse off."""
    torch.manual_seed(0)
    some = posts()
    none = table((0, 0, 0))
    trained = []
    start = tagger(folders("bert-uncased"), GifrConfig(dropout=0.0))
    text = tagger(folders("bert-uncased"), TextOnlyConfig(dropout=0.0))
    text.head.load_state_dict(
        {name: value for name, value in start.head.state_dict().items() if "fusion" not in name}
    )
    gold = pad_ids(gold_ids(some, TagSet()))
    for built in (start, text):
        for module in built.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        built.train()
        optimizer = torch.optim.SGD(built.parameters(), lr=0.05)
        pieces = built.encoder.tokenizer.batch(
            built.encoder.tokenizer([post.words for post in some])
        )
        losses = []
        for _ in range(5):
            images = built.images(none, torch.arange(3))
            loss = built(pieces, images, gold, decode=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        trained.append((losses, built.encoder.state_dict()))
    (mine, weights), (theirs, wanted) = trained
    assert mine[-1] < mine[0]
    assert mine == pytest.approx(theirs, rel=1e-4)
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
