"""What a reader sees, and what it says of what it cannot see."""

import gc
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    pack,
    stack_ids,
    text_id,
)
from mnerfeat.errors import CacheError, CacheLookupError, ProvenanceError
from tests.cache.builders import VIT, feature, images, put_numbered


def test_rows_come_back_by_name_packed_or_not(path: Path) -> None:
    put_numbered(path, range(10))
    put_numbered(path, range(10, 20))
    for _ in range(2):
        with FeatureCache(path) as cache:
            rows = cache.rows(["17.jpg", "./3.jpg", "17.jpg"])
            assert cache["vit_cls"][rows].tolist() == [[17] * 3, [3] * 3, [17] * 3]
        pack(path)


def test_four_lines_of_plain_h5py_read_the_same(path: Path) -> None:
    put_numbered(path, range(10))
    pack(path)
    cache = FeatureCache(path)
    with h5py.File(path) as file:
        assert (file["images/vit_cls/data"][:] == cache["vit_cls"][:]).all()
        assert file.attrs["format"] == b"mnerfeat-cache"
        assert file["images/vit_cls"].attrs["provenance"] == VIT.json.encode()


def test_rows_may_be_a_number_a_slice_an_array_or_a_mask(path: Path) -> None:
    put_numbered(path, range(10))
    vit = FeatureCache(path)["vit_cls"]
    everything = vit[:]
    assert everything.shape == vit.shape == (10, 3)
    assert (vit[4] == everything[4]).all()
    assert (vit[np.int64(4)] == everything[4]).all()
    assert (vit[2:5] == everything[2:5]).all()
    assert (vit[[7, 1]] == everything[[7, 1]]).all()
    assert (vit[everything[:, 0] > 4] == everything[everything[:, 0] > 4]).all()
    assert vit[[]].shape == (0, 3)


@pytest.mark.parametrize("rows", [[10], [-1], [[0, 1]], [1.5], ["a"], (slice(None),), [None]])
def test_rows_that_do_not_exist_are_refused(path: Path, rows: Any) -> None:
    put_numbered(path, range(10))
    with pytest.raises(CacheLookupError, match="from 0 to 9"):
        FeatureCache(path)["vit_cls"][rows]


def test_every_unknown_name_is_in_one_error(path: Path) -> None:
    put_numbered(path, range(3))
    with pytest.raises(CacheLookupError) as caught:
        FeatureCache(path).rows(["a.jpg", "1.jpg", "b.jpg"])
    assert caught.value.faults == ("a.jpg", "b.jpg")
    assert "2 of the 3" in str(caught.value)


def test_failed_rows_are_named_with_their_reasons(path: Path) -> None:
    rows = feature([[1, 1, 1], "truncated after 3 bytes"])
    CacheWriter(path).put(images=images({"a.jpg": b"a", "b.jpg": b"b"}, vit_cls=rows))
    for _ in range(2):
        cache = FeatureCache(path)
        both = cache.rows(["a.jpg", "b.jpg"])
        with pytest.raises(CacheLookupError) as caught:
            cache["vit_cls"][both]
        assert caught.value.faults == ("b.jpg: truncated after 3 bytes",)
        data, fine = cache["vit_cls"].read(both)
        assert fine.tolist() == [True, False]
        assert data.tolist() == [[1, 1, 1], [0, 0, 0]]
        pack(path)


def test_a_feature_that_is_not_there_is_named_beside_those_that_are(path: Path) -> None:
    put_numbered(path, range(3))
    with pytest.raises(CacheLookupError, match=r"no feature 'clip'; it holds vit_cls"):
        FeatureCache(path)["clip"]


def test_no_cache_is_an_error_unless_none_is_fine(path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache"):
        FeatureCache(path)
    empty = FeatureCache(path, missing_ok=True)
    assert empty.features == []
    assert len(empty.images) == 0
    assert empty.images.find_names(["a"]).tolist() == [-1]
    assert empty.text_rows(["a"]).tolist() == [-1]


def test_a_stale_feature_shows_what_differs_and_the_command(path: Path) -> None:
    put_numbered(path, range(3))
    asked = Provenance({"model": "vit", "revision": "2"})
    with pytest.raises(ProvenanceError) as caught:
        FeatureCache(path)["vit_cls"].require(asked, command="mnerfeat extract --replace vit_cls")
    assert caught.value.faults == ("revision: 1 in the cache, 2 requested",)
    assert "mnerfeat extract --replace vit_cls" in str(caught.value)


def test_texts_are_found_by_their_words(path: Path) -> None:
    words = ["a b", "c", "ü \ud800 \u00a0"]
    CacheWriter(path).put(
        texts=TableRows(
            ids=stack_ids([text_id(text) for text in words]),
            features={"clip_text": feature([[1, 1, 1], [2, 2, 2], [3, 3, 3]])},
        )
    )
    cache = FeatureCache(path)
    rows = cache.text_rows([words[2], "unknown", words[0]])
    assert rows[1] == -1
    assert cache["clip_text"][rows[[0, 2]]].tolist() == [[3, 3, 3], [1, 1, 1]]


def test_names_of_any_bytes_survive(path: Path) -> None:
    odd = [
        "ü.jpg",
        "a b\n.jpg",
        b"\xff\xfe.jpg".decode("utf-8", "surrogateescape"),
        "x/" * 50 + "y",
    ]
    contents = {name: name.encode("utf-8", "surrogateescape") for name in odd}
    CacheWriter(path).put(images=images(contents, vit_cls=feature([[0, 0, 0]] * 4)))
    for _ in range(2):
        cache = FeatureCache(path)
        assert sorted(name for name, _ in cache.images.names()) == sorted(odd)
        assert (cache.rows(odd) >= 0).all()
        pack(path)


def test_an_open_cache_stays_as_it_was(path: Path) -> None:
    put_numbered(path, range(3))
    cache = FeatureCache(path)
    put_numbered(path, range(3, 6))
    pack(path)
    assert len(cache.images) == 3
    assert cache["vit_cls"][cache.rows(["2.jpg"])].tolist() == [[2, 2, 2]]
    assert len(FeatureCache(path).images) == 6


def test_pickling_carries_no_pages_and_notices_a_change(path: Path) -> None:
    put_numbered(path, range(100))
    pack(path)
    pickled = pickle.dumps(FeatureCache(path))
    assert len(pickled) < 500
    assert len(pickle.loads(pickled).images) == 100
    put_numbered(path, range(100, 101))
    with pytest.raises(CacheError, match="written to after"):
        pickle.loads(pickled)


def test_done_is_ok_under_the_same_provenance(path: Path) -> None:
    rows = feature([[1, 1, 1], "broken"])
    contents = {"a.jpg": b"a", "b.jpg": b"b"}
    CacheWriter(path).put(images=images(contents, vit_cls=rows))
    ids = images({**contents, "c.jpg": b"c"}).ids
    table = FeatureCache(path).images
    assert table.done("vit_cls", ids, VIT).tolist() == [True, False, False]
    assert not table.done("vit_cls", ids, Provenance({"model": "other"})).any()
    assert not table.done("clip", ids, VIT).any()


def test_fingerprint_tells_rows_values_and_provenance_apart(path: Path) -> None:
    put_numbered(path, range(5))
    vit = FeatureCache(path)["vit_cls"]
    whole, some = vit.fingerprint(), vit.fingerprint([0, 2])
    assert some == vit.fingerprint([2, 0, 2])
    pack(path)
    assert FeatureCache(path)["vit_cls"].fingerprint() == whole
    put_numbered(path, [5])
    assert FeatureCache(path)["vit_cls"].fingerprint() not in {whole, some}


def test_a_cache_that_is_no_longer_used_holds_no_file(path: Path) -> None:
    """Or the space of a file that was replaced would be taken until the process ends."""
    put_numbered(path, range(3))
    pack(path)
    gc.collect()
    gc.disable()
    try:
        cache = FeatureCache(path)
        vit = cache["vit_cls"]
        assert vit[:].tolist() == vit.read([0, 1, 2])[0].tolist()
        cache.rows(["1.jpg"])
        assert vit.complete
        assert _mapped(path)
        del cache, vit
        assert not _mapped(path)
    finally:
        gc.enable()


def _mapped(path: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped")
    return str(path) in maps.read_text()


def test_importing_the_cache_loads_no_torch() -> None:
    code = "import mnerfeat.cache, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
