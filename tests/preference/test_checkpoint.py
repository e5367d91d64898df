import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mnerfeat.cache import Provenance
from mnerfeat.errors import ProvenanceError, RunError, StorageError
from mnerfeat.preference.checkpoint import (
    MANIFEST,
    WEIGHTS,
    SavedDiscriminator,
    load_discriminator,
    open_discriminator,
    save_discriminator,
)
from mnerfeat.preference.discriminator import Discriminator, DiscriminatorConfig
from mnerfeat.preference.rankings import Ranking, read_rankings

CLIP = {
    name: {"model": "ViT", "weights_sha256": "ab", "dtype": "float16", "numerics": "fast"}
    for name in ("clip_text", "clip_image")
}
BLANK = np.array([1.0, 2.0, 3.0])


def network(seed=0):
    torch.manual_seed(seed)
    return Discriminator(DiscriminatorConfig(hidden=4), d_clip_text=2, d_clip_image=3).eval()


def described(**changes):
    return SavedDiscriminator(
        **{
            "network": {"hidden": 4, "layers": 1, "activation": "relu", "dropout": 0.0},
            "sizes": (2, 3),
            "training": {"seed": 0, "share": 0.1},
            "rankings": {"sources": {"human": 3}, "sha256": "cd"},
            "learned_from": {"train": ("1", "2", "3")},
            "held_out": {"train": ("3",)},
            "text_ids": ("00", "11"),
            "clip": CLIP,
            "blank": "mean",
            "scores": {"held_out": None},
            **changes,
        }
    )


def test_what_is_saved_is_loaded(tmp_path):
    mine = network()
    mine.temperature.fill_(1.5)
    written = save_discriminator(tmp_path / "d", described(), mine, BLANK)
    saved, found, blank = load_discriminator(tmp_path / "d")
    assert saved == written
    assert saved.learned_from == {"train": ("1", "2", "3")}
    assert saved.sources == {"human": 3}
    np.testing.assert_array_equal(blank, BLANK)
    text, image = torch.randn(5, 2), torch.randn(5, 3)
    torch.testing.assert_close(found(text, image), mine(text, image))
    assert not found.training


def test_another_discriminator_makes_other_rewards_by_their_provenance(tmp_path):
    clip = Provenance({"a": 1}), Provenance({"b": 2})
    made = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        saved = save_discriminator(tmp_path / name, described(), network(seed), BLANK)
        made.append(saved.reward_provenance(*clip))
    assert made[0] == made[1] != made[2]
    other_blank = save_discriminator(tmp_path / "b", described(), network(), BLANK + 1)
    assert other_blank.reward_provenance(*clip) != made[0]
    saved = open_discriminator(tmp_path / "x")
    assert saved.reward_provenance(Provenance({"a": 2}), clip[1]) != made[0]
    assert made[0].facts["rankings"]["sources"] == {"human": 3}


def test_a_discriminator_is_only_replaced_when_asked_to(tmp_path):
    place = tmp_path / "d"
    save_discriminator(place, described(), network(), BLANK)
    with pytest.raises(RunError, match="already holds a discriminator"):
        save_discriminator(place, described(), network(1), BLANK)
    new = save_discriminator(place, described(blank="white"), network(1), BLANK, replace=True)
    assert open_discriminator(place) == new
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("…")
    with pytest.raises(RunError, match="holds no discriminator"):
        save_discriminator(tmp_path / "d", described(), network(), BLANK, replace=True)
    assert (tmp_path / "d" / "thesis.txt").exists()


@pytest.mark.parametrize("when", ["weights", "clip", "rename"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, when):
    place = tmp_path / "d"
    old = save_discriminator(place, described(), network(), BLANK)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if when == "weights":
        monkeypatch.setattr("mnerfeat.preference.checkpoint.save_file", full)
    if when == "rename":
        replace = Path.replace
        monkeypatch.setattr(
            Path,
            "replace",
            lambda self, to: (
                full() if to == place and self.suffix == ".partial" else replace(self, to)
            ),
        )
    with pytest.raises(StorageError, match="No space left"):
        save_discriminator(
            place,
            described(blank="white"),
            network(1),
            BLANK,
            replace=True,
            save_clip=full if when == "clip" else None,
        )
    assert open_discriminator(place) == old
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_missing_folder_says_what_makes_one(tmp_path):
    with pytest.raises(RunError, match="mnerfeat rank train"):
        open_discriminator(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw | {"format_version": 99}, "has format 99"),
        (lambda raw: raw | {"surprise": 1}, "is damaged"),
        (lambda raw: {k: v for k, v in raw.items() if k != "clip"}, "is damaged"),
        (lambda raw: raw | {"rankings": {}}, "is damaged"),
        (lambda _raw: [], "has format None"),
    ],
)
def test_manifests_that_cannot_be_understood_are_refused(tmp_path, change, message):
    save_discriminator(tmp_path / "d", described(), network(), BLANK)
    path = tmp_path / "d" / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RunError, match=message):
        open_discriminator(tmp_path / "d")


def test_weights_that_were_changed_are_refused(tmp_path):
    save_discriminator(tmp_path / "d", described(), network(), BLANK)
    path = tmp_path / "d" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="was changed or damaged"):
        load_discriminator(tmp_path / "d")
    path.unlink()
    with pytest.raises(RunError, match="cannot be used"):
        load_discriminator(tmp_path / "d")


def test_embeddings_of_another_clip_are_refused_and_rounding_is_not():
    saved = described()
    same = {**CLIP["clip_text"], "dtype": "float32", "numerics": "strict", "libraries": {}}
    saved.require_clip("clip_text", Provenance(same), cache=Path("features.h5"), folder=Path("d"))
    other = Provenance({**same, "weights_sha256": "ef"})
    with pytest.raises(ProvenanceError) as caught:
        saved.require_clip("clip_text", other, cache=Path("features.h5"), folder=Path("d"))
    assert caught.value.faults == ("weights_sha256: ef in the cache, ab in the discriminator",)
    assert "rank train" in str(caught.value)
    with pytest.raises(ProvenanceError, match="--clip d/clip"):
        described(tuned_clip=True).require_clip(
            "clip_text", other, cache=Path("features.h5"), folder=Path("d")
        )


def test_a_link_to_a_discriminator_stays_a_link(tmp_path):
    save_discriminator(tmp_path / "real", described(), network(), BLANK)
    (tmp_path / "d").symlink_to("real", target_is_directory=True)
    new = save_discriminator(tmp_path / "d", described(), network(1), BLANK, replace=True)
    assert (tmp_path / "d").is_symlink()
    assert open_discriminator(tmp_path / "real") == new
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "real"]


def test_what_a_kill_between_two_renames_put_aside_is_named(tmp_path):
    old = save_discriminator(tmp_path / "d", described(), network(), BLANK)
    aside = (tmp_path / "d").rename(tmp_path / ".d.0123.replaced")
    with pytest.raises(RunError, match=r"mv .*\.d\.0123\.replaced .*d` restores"):
        open_discriminator(tmp_path / "d")
    aside.rename(tmp_path / "d")
    assert open_discriminator(tmp_path / "d") == old


def test_the_rankings_it_learned_from_are_kept_with_it(tmp_path):
    rankings = (Ranking(id="1", images=("a", "b"), blank=1, text_id="00", image_ids=("0", "1")),)
    save_discriminator(tmp_path / "d", described(), network(), BLANK, rankings=rankings)
    assert read_rankings(tmp_path / "d" / "rankings.jsonl") == rankings
