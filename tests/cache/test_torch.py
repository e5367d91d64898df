"""A feature as a tensor and as a column of torch data sets."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import (
    OK,
    CacheWriter,
    FeatureCache,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    pack,
    stack_ids,
)
from mnerfeat.errors import CacheLookupError
from tests.cache.builders import feature, images, put_numbered

torch = pytest.importorskip("torch")
data = torch.utils.data


def test_a_tensor_takes_no_memory(path: Path) -> None:
    n_rows, width = 20_000, 512
    ids = np.random.default_rng(0).integers(0, 256, (n_rows, 32), np.uint8)
    rows = FeatureRows(
        data=np.ones((n_rows, width), np.float16),
        state=np.full(n_rows, OK, np.uint8),
        provenance=Provenance({}),
    )
    CacheWriter(path).put(images=TableRows(ids=ids, features={"vit_cls": rows}))
    pack(path)
    del rows
    cache = FeatureCache(path)
    before = _private_kilobytes()
    tensor = cache["vit_cls"].tensor()
    assert tensor.shape == (n_rows, width)
    assert tensor.dtype == torch.float16
    assert float(tensor[:, :2].float().sum()) == 2 * n_rows
    assert _private_kilobytes() - before < 5_000


def _private_kilobytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell what memory is private")
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    pytest.skip("this system does not tell what memory is private")


@pytest.mark.parametrize("packed", [True, False])
def test_writing_to_a_tensor_changes_nothing_else(path: Path, packed: bool) -> None:
    put_numbered(path, range(5))
    put_numbered(path, range(5, 10))
    if packed:
        pack(path)
    files = {file: file.read_bytes() for file in path.parent.rglob("*.h5")}
    cache = FeatureCache(path)
    before = cache["vit_cls"][np.arange(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = cache["vit_cls"].tensor()
    assert (tensor.numpy() == before).all()
    tensor *= -1
    assert (cache["vit_cls"][np.arange(10)] == before).all()
    assert (cache["vit_cls"].tensor().numpy() == before).all()
    assert (tensor.numpy() == -before).all()
    assert {file: file.read_bytes() for file in path.parent.rglob("*.h5")} == files


def test_a_tensor_of_a_cache_that_was_replaced_shows_what_was_opened(path: Path) -> None:
    put_numbered(path, range(5))
    pack(path)
    cache = FeatureCache(path)
    put_numbered(path, range(5, 10))
    pack(path)
    assert (cache["vit_cls"].tensor().numpy() == cache["vit_cls"][:]).all()
    assert len(cache["vit_cls"].tensor()) == 5


@pytest.mark.parametrize("packed", [True, False])
def test_rows_that_are_not_there_are_zeros_only_if_asked_for(path: Path, packed: bool) -> None:
    rows = feature([[1, 1, 1], "broken"])
    CacheWriter(path).put(images=images({"a.jpg": b"a", "b.jpg": b"b"}, vit_cls=rows))
    CacheWriter(path).put(images=images({"c.jpg": b"c"}))
    if packed:
        pack(path)
    cache = FeatureCache(path)
    with pytest.raises(CacheLookupError, match="lacks 2"):
        cache["vit_cls"].tensor()
    tensor = cache["vit_cls"].tensor(allow_missing=True)
    order = cache.rows(["a.jpg", "b.jpg", "c.jpg"])
    assert tensor[order].tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_numbers_and_empty_features_have_tensors(path: Path) -> None:
    ids = stack_ids([content_id(b"a"), content_id(b"b")])
    columns = {
        name: FeatureRows(data=array, state=np.ones(2, np.uint8), provenance=Provenance({}))
        for name, array in {
            "quality": np.array([0.5, 0.25], np.float32),
            "boxes": np.ones((2, 3, 4), np.int32),
            "none": np.zeros((2, 0), np.float16),
        }.items()
    }
    CacheWriter(path).put(images=TableRows(ids=ids, features=columns))
    for _ in range(2):
        cache = FeatureCache(path)
        for name, rows in columns.items():
            tensor = cache[name].tensor()
            assert tuple(tensor.shape) == rows.data.shape
            assert (np.sort(tensor.numpy(), axis=0) == np.sort(rows.data, axis=0)).all()
        pack(path)


def test_a_column_of_data_sets(path: Path) -> None:
    put_numbered(path, range(20))
    pack(path)
    cache = FeatureCache(path)
    names = [f"{n}.jpg" for n in range(20)]
    vit = data.Subset(cache["vit_cls"], cache.rows(names).tolist())
    both = data.StackDataset(image=vit, number=torch.arange(20))
    seen = 0
    for batch in data.DataLoader(both, batch_size=8, shuffle=True):
        assert (batch["image"][:, 0] == batch["number"]).all()
        assert batch["image"].dtype == torch.float32
        seen += len(batch["number"])
    assert seen == 20


def test_a_whole_batch_without_a_python_loop(path: Path) -> None:
    put_numbered(path, range(20))
    pack(path)
    vit = FeatureCache(path)["vit_cls"]
    loader = data.DataLoader(vit, batch_size=8, collate_fn=torch.from_numpy)
    assert (torch.cat(list(loader)).numpy() == vit[:]).all()


def test_an_array_wherever_arrays_are_taken(path: Path) -> None:
    put_numbered(path, range(20))
    pack(path)
    vit = FeatureCache(path)["vit_cls"]
    assert (np.asarray(vit) == vit[:]).all()
    assert np.asarray(vit, np.float64).dtype == np.float64
    assert np.stack(list(vit)).tolist() == vit[:].tolist()
    view = np.asarray(vit)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    assert np.array(vit).flags.writeable
