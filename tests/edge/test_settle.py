import itertools
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.settle import (
    NEXT,
    Happening,
    Patience,
    Signature,
    State,
    Tracked,
    final_from_s,
    first_seen,
    happen,
    look,
    retry_pause_s,
    signature_of,
)

PATIENCE = Patience(settle_s=2.0, incomplete_after_s=300.0)
SMALL, LARGE = Signature(10, 1, 7, 3), Signature(20, 1, 7, 3)


def settled(at_s: float = 0.0) -> Tracked:
    return look(first_seen(0, SMALL, at_s, PATIENCE), SMALL, at_s + 2.0, at_s + 2.0, PATIENCE)


def in_state(state: State) -> Tracked:
    way = {
        State.SEEN: None,
        State.STABLE: (),
        State.CLAIMED: (Happening.CLAIMED,),
        State.INFERRED: (Happening.CLAIMED, Happening.INFERRED),
        State.PUBLISHED: (Happening.CLAIMED, Happening.INFERRED, Happening.PUBLISHED),
        State.DONE: (Happening.CLAIMED, Happening.INFERRED, Happening.PUBLISHED, Happening.COMMITTED),
        State.REFUSED: (Happening.REFUSED,),
        State.INCOMPLETE: (Happening.DAMAGED,),
        State.RETRY_WAIT: (Happening.FAILED,),
    }[state]
    tracked = first_seen(0, SMALL, 0.0, PATIENCE) if way is None else settled()
    for happening in way or ():
        tracked = happen(tracked, happening, 2.0, PATIENCE)
    assert tracked.state is state
    return tracked


def test_one_look_never_settles_a_file():
    assert first_seen(0, SMALL, 0.0, PATIENCE).state is State.SEEN


def test_a_second_look_settles_a_file_only_after_settle_s():
    seen = first_seen(0, SMALL, 10.0, PATIENCE)
    assert look(seen, SMALL, 11.9, 11.9, PATIENCE) is seen
    assert look(seen, SMALL, 12.0, 12.0, PATIENCE).state is State.STABLE
    assert seen.due_s == 12.0


@pytest.mark.parametrize(
    "changed", [Signature(11, 1, 7, 3), Signature(10, 2, 7, 3), Signature(10, 1, 8, 3), Signature(10, 1, 7, 4)]
)
def test_another_size_time_or_inode_starts_the_wait_anew(changed):
    tracked = look(first_seen(5, SMALL, 0.0, PATIENCE), changed, 1.9, 1.9, PATIENCE)
    assert (tracked.state, tracked.unchanged_since_s, tracked.due_s, tracked.order) == (State.SEEN, 1.9, 3.9, 5)
    assert look(tracked, changed, 3.8, 3.8, PATIENCE).state is State.SEEN
    assert look(tracked, changed, 3.9, 3.9, PATIENCE).state is State.STABLE


def test_a_look_that_takes_long_counts_against_the_file():
    seen = first_seen(0, SMALL, 9.0, PATIENCE)  # a sweep from 0 s to 9 s: the look may have been at 9 s
    assert look(seen, SMALL, 9.1, 30.0, PATIENCE).state is State.SEEN  # this one may have been at 9.1 s
    assert look(seen, SMALL, 11.0, 30.0, PATIENCE).state is State.STABLE


@pytest.mark.parametrize("state", State)
def test_a_change_reopens_a_file_in_any_state_and_keeps_its_place(state):
    tracked = look(in_state(state), LARGE, 500.0, 500.0, PATIENCE)
    assert tracked == Tracked(0, LARGE, State.SEEN, 500.0, 502.0, doubted=True)


@pytest.mark.parametrize("state", set(State) - {State.SEEN})
def test_looking_at_an_unchanged_file_changes_nothing_once_it_is_settled(state):
    tracked = in_state(state)
    assert look(tracked, SMALL, 1e6, 1e6, PATIENCE) is tracked


def test_an_incomplete_file_is_taken_up_again_when_it_counts_as_damaged_for_good():
    waiting = happen(settled(at_s=100.0), Happening.DAMAGED, 150.0, PATIENCE)
    assert waiting.state is State.INCOMPLETE
    assert waiting.due_s == final_from_s(waiting, PATIENCE) == 100.0 + 300.0
    assert happen(waiting, Happening.DUE, 400.0, PATIENCE).state is State.STABLE


def test_the_pause_doubles_from_one_second_to_five_minutes():
    pauses_s = [retry_pause_s(failures, PATIENCE) for failures in range(12)]
    assert pauses_s == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert retry_pause_s(10**6, PATIENCE) == 300


def test_failures_are_counted_until_the_file_changes():
    tracked = settled()
    for now_s, due_s in ((10.0, 11.0), (20.0, 22.0), (30.0, 34.0)):
        tracked = happen(tracked, Happening.FAILED, now_s, PATIENCE)
        assert tracked.due_s == due_s
        tracked = happen(tracked, Happening.DUE, due_s, PATIENCE)
    assert tracked.failures == 3
    assert look(tracked, LARGE, 40.0, 40.0, PATIENCE).failures == 0


def test_every_pair_of_state_and_happening_is_in_the_table_or_a_bug():
    for state, happening in itertools.product(State, Happening):
        tracked = in_state(state)
        if (state, happening) in NEXT:
            assert happen(tracked, happening, 2.0, PATIENCE).state is NEXT[state, happening]
        else:
            with pytest.raises(KeyError):
                happen(tracked, happening, 2.0, PATIENCE)


def test_the_table_is_what_was_agreed():
    # read by rows: what can become of a file in that state; CHANGED and REQUEUED begin anew from any
    waits = {"DAMAGED": "incomplete", "FAILED": "retry_wait", "CRASHED": "retry_wait"}
    in_hand = waits | {"REFUSED": "refused", "PUT_BACK": "stable", "RESTARTED": "seen"}
    agreed = {
        "seen": {"QUIET": "stable", "RESTARTED": "seen"},
        "stable": in_hand | {"CLAIMED": "claimed", "PUBLISHED": "published", "COMMITTED": "done"},
        "claimed": in_hand | {"INFERRED": "inferred", "PUBLISHED": "published"},
        "inferred": in_hand | {"PUBLISHED": "published"},
        "published": in_hand | {"COMMITTED": "done"},
        "done": {"RESTARTED": "done"},
        "refused": {"RESTARTED": "refused"},
        "incomplete": {"DUE": "stable", "RESTARTED": "seen"},
        "retry_wait": {"DUE": "stable", "RESTARTED": "seen"},
    }
    for row in agreed.values():
        row |= {"CHANGED": "seen", "REQUEUED": "seen"}
    table = {state.value: {} for state in State}
    for (state, happening), target in NEXT.items():
        table[state.value][happening.name] = target.value
    assert table == agreed


@pytest.mark.parametrize("state", set(State) - {State.DONE, State.REFUSED})
def test_a_restart_lets_a_file_settle_anew_and_keeps_what_is_held_against_it(state):
    before = replace(in_state(state), failures=3, crashes=1, again=True, reason="X: no")
    after = happen(before, Happening.RESTARTED, 500.0, PATIENCE, before.reason)
    assert after == Tracked(
        0, SMALL, State.SEEN, 500.0, 502.0, failures=3, crashes=1, doubted=True, again=True, reason="X: no"
    )


@pytest.mark.parametrize("state", State)
def test_a_file_that_is_asked_for_again_is_forgiven_all(state):
    before = replace(in_state(state), failures=3, crashes=2, reason="X: no")
    after = happen(before, Happening.REQUEUED, 500.0, PATIENCE)
    assert after == Tracked(0, SMALL, State.SEEN, 500.0, 502.0, doubted=True, again=True)


def test_a_wish_is_remembered_until_the_file_is_finished_also_when_it_changes():
    asked = look(happen(settled(), Happening.REQUEUED, 10.0, PATIENCE), SMALL, 12.0, 12.0, PATIENCE)
    assert happen(asked, Happening.FAILED, 12.0, PATIENCE).again
    assert look(asked, LARGE, 13.0, 13.0, PATIENCE).again
    assert not happen(asked, Happening.COMMITTED, 12.0, PATIENCE).again
    assert not happen(asked, Happening.REFUSED, 12.0, PATIENCE).again


def test_only_crashes_count_as_crashes_and_what_is_put_back_counts_as_nothing():
    crashed = happen(settled(), Happening.CRASHED, 10.0, PATIENCE)
    assert (crashed.failures, crashed.crashes, crashed.due_s) == (0, 1, 11.0)
    again = happen(crashed, Happening.DUE, 11.0, PATIENCE, crashed.reason)
    failed = happen(again, Happening.FAILED, 11.0, PATIENCE)
    assert (failed.failures, failed.crashes, failed.due_s) == (1, 1, 13.0)
    back = happen(again, Happening.PUT_BACK, 11.0, PATIENCE)
    assert (back.state, back.failures, back.crashes, back.due_s) == (State.STABLE, 0, 1, None)


def test_no_state_is_a_dead_end():
    for state in State:
        reached, ahead = set(), {state}
        while ahead:
            reached |= ahead
            ahead = {target for (source, _), target in NEXT.items() if source in ahead} - reached
        assert reached == set(State)


@given(st.lists(st.tuples(st.floats(0.001, 5.0), st.booleans()), min_size=1, max_size=40))
def test_a_file_is_ready_exactly_when_it_stood_still_for_settle_s(steps):
    now_s, size, since_s = 0.0, 0, 0.0
    tracked = first_seen(0, Signature(size, 0, 0), now_s, PATIENCE)
    for pause_s, changes in steps:
        now_s += pause_s
        if changes:
            size, since_s = size + 1, now_s
        tracked = look(tracked, Signature(size, 0, 0), now_s, now_s, PATIENCE)
        assert (tracked.state is State.STABLE) == (now_s >= since_s + 2.0)


def test_a_wild_date_fits_the_journal(tmp_path):
    # ext4 keeps dates up to 2446, and any program may set one; the journal's whole numbers end in 2262
    file = tmp_path / "late.dcm"
    file.touch()
    status = os.stat_result((0o100644, 7, 0, 1, 0, 0, 10, 0, 0, 0), {"st_mtime_ns": 2**64, "st_ctime_ns": 2**64})
    assert (signature_of(status).mtime_ns, signature_of(status).ctime_ns) == (2**63 - 1, 2**63 - 1)
    now = file.stat()
    assert (signature_of(now).mtime_ns, signature_of(now).ctime_ns) == (now.st_mtime_ns, now.st_ctime_ns)
