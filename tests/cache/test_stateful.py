"""Any order of writing, packing, dying, moving and mixing gives what a dictionary would give."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mnerfeat.cache import CacheWriter, FeatureCache, Provenance, pack, repair, verify
from tests.cache.builders import feature, images

FEATURES = ("vit_cls", "clip_image")
CONTENTS = st.integers(0, 6)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "features.h5"
        self.names: dict[str, int] = {}
        self.values: dict[tuple[str, int], int | str] = {}
        self.version = dict.fromkeys(FEATURES, 0)
        self.foreign = 0
        self.moves = 0

    @rule(
        contents=st.lists(CONTENTS, min_size=1, max_size=4, unique=True),
        name=st.sampled_from(FEATURES),
        failing=st.booleans(),
        renamed=st.booleans(),
    )
    def put(self, contents: list[int], name: str, failing: bool, renamed: bool) -> None:
        made_by = Provenance({"version": self.version[name]})
        value = [f"broken {c}" if failing else [self.version[name], c, 0] for c in contents]
        called = {f"{'odd' if renamed else 'plain'}-{c % 3}": c for c in contents}
        rows = images({str(c): bytes([c]) for c in contents}, **{name: feature(value, made_by)})
        ids = list(contents)
        CacheWriter(self.path).put(
            images=type(rows)(
                ids=rows.ids,
                size=rows.size,
                features=rows.features,
                names=[(called_name, ids.index(c)) for called_name, c in called.items()],
            ),
            replace=True,
        )
        self.names |= called
        for c in contents:
            if not failing:
                self.values[name, c] = self.version[name]
            elif not isinstance(self.values.get((name, c)), int):
                self.values[name, c] = f"broken {c}"

    @rule(name=st.sampled_from(FEATURES), content=CONTENTS)
    def replace(self, name: str, content: int) -> None:
        self.version[name] += 1
        for key in [key for key in self.values if key[0] == name]:
            del self.values[key]
        self.put([content], name, failing=False, renamed=False)

    @rule()
    def pack(self) -> None:
        pack(self.path)

    @rule()
    def die_while_packing(self) -> None:
        """Killed after the rename and before the parts it absorbed are removed."""
        parts = self.path.with_name(f"{self.path.name}.d")
        waiting = [
            (file.path, file.path.read_bytes())
            for file in FeatureCache(self.path, missing_ok=True).files
            if file.path != self.path
        ]
        pack(self.path)
        for part, content in waiting:
            parts.mkdir(exist_ok=True)
            part.write_bytes(content)

    @rule()
    def die_while_writing(self) -> None:
        folder = self.path.with_name(f"{self.path.name}.d")
        folder.mkdir(exist_ok=True)
        (folder / ".part-dead.h5.0.tmp").write_bytes(b"half")

    @rule(leave=st.booleans())
    @precondition(lambda self: self.path.exists())
    def move(self, leave: bool) -> None:
        """Go on with a copy under another name, or with the renamed cache."""
        self.moves += 1
        target = self.folder / f"moved-{self.moves}.h5"
        parts = self.path.with_name(f"{self.path.name}.d")
        shutil.copy(self.path, target)
        if parts.exists():
            shutil.copytree(parts, target.with_name(f"{target.name}.d"))
        if not leave:
            self.path.unlink()
            shutil.rmtree(parts, ignore_errors=True)
        self.path = target

    @rule()
    @precondition(lambda self: self.path.exists())
    def mix(self) -> None:
        """A part of another cache gets among the parts, with a name that both know."""
        self.moves += 1
        other = self.folder / f"other-{self.moves}.h5"
        rows = images({"plain-0": b"other"}, vit_cls=feature([[9, 9, 9]]))
        part = CacheWriter(other).put(images=rows)
        target = self.path.with_name(f"{self.path.name}.d")
        target.mkdir(exist_ok=True)
        shutil.move(part, target)
        self.foreign += 1

    @rule()
    @precondition(lambda self: self.path.exists())
    def repair(self) -> None:
        assert len(repair(self.path).foreign) == self.foreign
        self.foreign = 0

    @invariant()
    def reads_like_a_dictionary(self) -> None:
        cache = FeatureCache(self.path, missing_ok=True)
        if self.path.exists() or cache.files:
            faults = verify(self.path)
            assert len(faults) == len(cache.foreign) == self.foreign
            assert all("belongs to another cache" in fault for fault in faults)
        assert {name: cache.images.ids[row].tobytes() for name, row in cache.images.names()} == {
            name: images({"": bytes([c])}).ids.tobytes() for name, c in self.names.items()
        }
        held: dict[tuple[str, int], int | str] = {}
        for name in cache.features:
            feature_ = cache[name]
            data, fine = feature_.read(slice(None))
            for c in range(7):
                (row,) = cache.images.find(images({"": bytes([c])}).ids)
                if row >= 0 and fine[row]:
                    assert data[row].tolist()[1:] == [c, 0]
                    held[name, c] = int(data[row, 0])
                elif row in feature_.failures:
                    held[name, c] = feature_.failures[row]
        assert held == self.values

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


CacheMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestCache = CacheMachine.TestCase
