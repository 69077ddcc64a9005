import os
import shutil
import warnings

import pytest

from edge.engines import open_store_engine
from edge.store import Store
from tests.edge.store.shown import links, refusal
from tests.killed_at import killed_at


@pytest.fixture
def each_kill(filled, tmp_path):
    """Return a function that gives a store in which ``action(store)`` was killed, once for each step that it has."""

    def stores(action):
        step = 0
        while True:
            copy = Store(tmp_path / f"killed {step}", filled.key)
            shutil.copytree(filled.root, copy.root, symlinks=True)
            if not killed_at(step, lambda store=copy: action(store)):
                break
            yield copy
            shutil.rmtree(copy.root)
            step += 1
        assert step > 20, "so few calls of the system cannot be all of them"

    return stores


def test_removing_can_be_killed_at_any_step(each_kill):
    for store in each_kill(lambda store: store.remove("r3")):
        assert links(store) == ("r2", "r1")
        for one in store.list():
            store.verify(one.release)
        if "r3" in {one.release for one in store.list()}:
            store.remove("r3")
        store.use("r1")
        assert sorted(path.name for path in store.root.iterdir()) == [".lock", "current", "previous", "releases"]


def test_adding_can_be_killed_at_any_step(each_kill, staged):
    source, whole = staged("r4"), 0
    for store in each_kill(lambda store: store.add(source)):
        assert links(store) == ("r2", "r1")
        for one in store.list():
            store.verify(one.release)
        if "r4" in {one.release for one in store.list()}:
            whole += 1
            assert "never changes" in refusal(store.add, source)
        else:
            store.add(source)
        store.use("r4")
        assert sorted(path.name for path in store.root.iterdir()) == [".lock", "current", "previous", "releases"]
    assert whole > 0, "the last steps come after the rename"


def test_use_can_be_killed_at_any_step_and_done_again(each_kill):
    seen = set()
    for store in each_kill(lambda store: store.use("r3")):
        seen.add(links(store))
        store.verify(store.current())
        store.verify(store.previous())
        store.use("r3")
        assert links(store) == ("r3", "r2")
    assert seen == {("r2", "r1"), ("r2", "r2"), ("r3", "r2")}


def test_rollback_can_be_killed_at_any_step(each_kill):
    seen = set()
    for store in each_kill(lambda store: store.rollback()):
        seen.add(links(store))
        store.verify(store.current())
        store.verify(store.previous())
    assert seen == {("r2", "r1"), ("r1", "r1"), ("r1", "r2")}


def test_the_engine_opens_after_each_moment_of_a_switch(each_kill):
    """One store for each pair of links that a kill can leave behind; the engine is slow to open."""
    opened = {}
    for store in each_kill(lambda store: store.use("r3")):
        if links(store) not in opened:
            opened[links(store)] = open_store_engine(store, 1, "refuse").contract.release
    assert opened == {("r2", "r1"): "r2", ("r2", "r2"): "r2", ("r3", "r2"): "r3"}


def test_what_a_killed_process_left_is_removed_by_the_next_change(filled, staged):
    (filled.root / ".staging" / "r4").mkdir(parents=True)
    (filled.root / ".staging" / "r4" / "model.onnx").write_bytes(b"half")
    (filled.root / ".staging" / "current").symlink_to("releases/r4")
    filled.add(staged("r4"))
    assert sorted(path.name for path in filled.root.iterdir()) == [".lock", "current", "previous", "releases"]
    filled.verify("r4")


def test_those_who_change_a_store_at_once_wait_for_one_another(filled, staged):
    """Each empties the staging folder, so without a lock they would remove what another one writes."""
    sources = [staged(f"p{number}") for number in range(12)]
    children = []
    for mine in (sources[0::3], sources[1::3], sources[2::3]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                for source in mine:
                    filled.add(source)
                    filled.use(source.name)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    for source in sources:
        filled.verify(source.name)
