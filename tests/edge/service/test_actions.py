import pytest

from edge.errors import (
    BackendFailed,
    BadConfig,
    BadReference,
    BadRelease,
    DamagedImage,
    DeviceLost,
    EdgeError,
    FileTooLarge,
    FolderUnavailable,
    ImageUnreadable,
    ImplausibleGeometry,
    InferenceFailed,
    JournalDamaged,
    NotAnImage,
    ReaderDied,
    ResultNameTaken,
    ResultsNotWritable,
    SpoolFull,
    StateUnusable,
    StoreNotWritable,
    UnsupportedImage,
    WorkerDied,
)
from edge.service.actions import ACTIONS, Action, action_for
from tests.edge.daemon_room import Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


def leaves(kind: type[EdgeError]) -> set[type[EdgeError]]:
    below = kind.__subclasses__()
    return set().union(*map(leaves, below)) if below else {kind}


def test_every_leaf_of_the_error_tree_has_its_action():
    assert {leaf: action_for(leaf) for leaf in leaves(EdgeError)} == {
        NotAnImage: Action.IGNORE,
        UnsupportedImage: Action.IGNORE,
        FileTooLarge: Action.IGNORE,
        DamagedImage: Action.WAIT,
        ImplausibleGeometry: Action.IGNORE,
        ResultNameTaken: Action.IGNORE,
        ImageUnreadable: Action.BACK_OFF,
        InferenceFailed: Action.BACK_OFF,
        DeviceLost: Action.BACK_OFF,
        ReaderDied: Action.CRASHED,
        WorkerDied: Action.CRASHED,
        SpoolFull: Action.PAUSE,
        JournalDamaged: Action.BACK_OFF,
        FolderUnavailable: Action.BACK_OFF,
        ResultsNotWritable: Action.BACK_OFF,
        BadConfig: Action.END,
        BadRelease: Action.END,
        BadReference: Action.END,  # of the commands only
        BackendFailed: Action.END,
        StateUnusable: Action.END,
        StoreNotWritable: Action.END,
    }


def test_every_branch_of_the_error_tree_has_an_action_for_leaves_to_come():
    assert set(EdgeError.__subclasses__()) <= ACTIONS.keys()


@pytest.mark.parametrize("leaf", sorted(leaves(EdgeError), key=lambda leaf: leaf.__name__))
def test_the_daemon_does_what_the_table_says(room, leaf):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([leaf("what, which file, what to do")] * 2)
    if action_for(leaf) is Action.END:
        with pytest.raises(leaf):
            room.run_for(10)
        return
    room.run_for(1000)
    calls = {
        Action.IGNORE: [("X.dcm", False)],
        Action.WAIT: [("X.dcm", False), ("X.dcm", True)],
        Action.BACK_OFF: [("X.dcm", False)] * 3,
        Action.CRASHED: [("X.dcm", False)] * 2,
        Action.PAUSE: [("X.dcm", False)] * 3,
    }
    statuses = {Action.BACK_OFF: "ok", Action.PAUSE: "ok", Action.CRASHED: "refused"}
    assert room.pipeline.calls == calls[action_for(leaf)]
    assert (room.result("X.dcm") or {}).get("status") == statuses.get(action_for(leaf))
