"""The tiny text encoder: a small BERT that has read toy posts and captions."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from mnerfeat.toy.plan import ToyPost
from tiny.fitting import fit, halve, in_batches
from tiny.texts import SPECIAL, make_sentences, make_tokenizer

CONTEXT = 128
_MASKED = 0.2


def train(
    folder: Path, posts: list[ToyPost], held_out: list[ToyPost], *, steps: int
) -> dict[str, float]:
    """Trains it to fill in masked pieces of posts and captions, writes a `transformers` folder.

    A post stands before the caption of one of its images, as a pair: so the words for one colour
    come near each other, as they would in an encoder that has read the world.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer(context=CONTEXT)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertForMaskedLM(config)
    pieces, pairs = _encode(posts, tokenizer)
    generator = torch.Generator().manual_seed(2)
    mask_id = tokenizer.mask_token_id

    def loss_of(rows: Tensor, done: float) -> Tensor:  # noqa: ARG001
        longest = int((pieces[rows] != 0).sum(1).max())
        ids, kinds = pieces[rows, :longest], pairs[rows, :longest]
        hidden = (torch.rand(ids.shape, generator=generator) < _MASKED) & (ids >= len(SPECIAL))
        return _loss(model, ids, kinds, hidden, mask_id)

    model.train()
    fit("text", model.parameters(), loss_of, rows=len(posts), steps=steps, batch=32)
    model.eval()
    model.save_pretrained(folder)
    halve(folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    ids, kinds = _encode(held_out, tokenizer)
    hidden = (torch.rand(ids.shape, generator=generator) < _MASKED) & (ids >= len(SPECIAL))
    right = in_batches(
        lambda rows: _right(model, ids[rows], kinds[rows], hidden[rows], mask_id),
        len(held_out),
        batch=100,
    )
    return {"masked pieces right": right.float().mean().item()}


def _encode(posts: list[ToyPost], tokenizer: Any) -> tuple[Tensor, Tensor]:
    sentences = make_sentences(posts, seed=0)
    encoded = tokenizer(
        [post for post, _ in sentences],
        [caption for _, caption in sentences],
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    )
    return encoded["input_ids"], encoded["token_type_ids"]


def _loss(
    model: BertForMaskedLM, ids: Tensor, kinds: Tensor, hidden: Tensor, mask_id: int
) -> Tensor:
    logits = _logits(model, ids, kinds, hidden, mask_id)
    return functional.cross_entropy(logits[hidden], ids[hidden])


def _right(
    model: BertForMaskedLM, ids: Tensor, kinds: Tensor, hidden: Tensor, mask_id: int
) -> Tensor:
    return _logits(model, ids, kinds, hidden, mask_id).argmax(-1)[hidden] == ids[hidden]


def _logits(
    model: BertForMaskedLM, ids: Tensor, kinds: Tensor, hidden: Tensor, mask_id: int
) -> Tensor:
    logits: Tensor = model(
        input_ids=ids.masked_fill(hidden, mask_id),
        attention_mask=(ids != 0).long(),
        token_type_ids=kinds,
    ).logits
    return logits
