import itertools

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
)

PATIENCE = Patience(settle_s=2.0, incomplete_after_s=300.0)
SMALL, LARGE = Signature(10, 1, 7), Signature(20, 1, 7)


def settled(at_s: float = 0.0) -> Tracked:
    return look(first_seen(0, SMALL, at_s, PATIENCE), SMALL, at_s + 2.0, at_s + 2.0, PATIENCE)


def in_state(state: State) -> Tracked:
    way = {
        State.SETTLING: None,
        State.READY: (),
        State.DONE: (Happening.PUBLISHED,),
        State.IGNORED: (Happening.PASSED_OVER,),
        State.INCOMPLETE: (Happening.DAMAGED,),
        State.BACKING_OFF: (Happening.FAILED,),
    }[state]
    tracked = first_seen(0, SMALL, 0.0, PATIENCE) if way is None else settled()
    for happening in way or ():
        tracked = happen(tracked, happening, 2.0, PATIENCE)
    assert tracked.state is state
    return tracked


def test_one_look_never_settles_a_file():
    assert first_seen(0, SMALL, 0.0, PATIENCE).state is State.SETTLING


def test_a_second_look_settles_a_file_only_after_settle_s():
    seen = first_seen(0, SMALL, 10.0, PATIENCE)
    assert look(seen, SMALL, 11.9, 11.9, PATIENCE) is seen
    assert look(seen, SMALL, 12.0, 12.0, PATIENCE).state is State.READY
    assert seen.due_s == 12.0


@pytest.mark.parametrize("changed", [Signature(11, 1, 7), Signature(10, 2, 7), Signature(10, 1, 8)])
def test_another_size_time_or_inode_starts_the_wait_anew(changed):
    tracked = look(first_seen(5, SMALL, 0.0, PATIENCE), changed, 1.9, 1.9, PATIENCE)
    assert (tracked.state, tracked.unchanged_since_s, tracked.due_s, tracked.order) == (State.SETTLING, 1.9, 3.9, 5)
    assert look(tracked, changed, 3.8, 3.8, PATIENCE).state is State.SETTLING
    assert look(tracked, changed, 3.9, 3.9, PATIENCE).state is State.READY


def test_a_look_that_takes_long_counts_against_the_file():
    seen = first_seen(0, SMALL, 9.0, PATIENCE)  # a sweep from 0 s to 9 s: the look may have been at 9 s
    assert look(seen, SMALL, 9.1, 30.0, PATIENCE).state is State.SETTLING  # this one may have been at 9.1 s
    assert look(seen, SMALL, 11.0, 30.0, PATIENCE).state is State.READY


@pytest.mark.parametrize("state", State)
def test_a_change_reopens_a_file_in_any_state_and_keeps_its_place(state):
    tracked = look(in_state(state), LARGE, 500.0, 500.0, PATIENCE)
    assert tracked == Tracked(0, LARGE, State.SETTLING, 500.0, 502.0, failures=0, reopened=True)


@pytest.mark.parametrize("state", set(State) - {State.SETTLING})
def test_looking_at_an_unchanged_file_changes_nothing_once_it_is_settled(state):
    tracked = in_state(state)
    assert look(tracked, SMALL, 1e6, 1e6, PATIENCE) is tracked


def test_an_incomplete_file_is_taken_up_again_when_it_counts_as_damaged_for_good():
    waiting = happen(settled(at_s=100.0), Happening.DAMAGED, 150.0, PATIENCE)
    assert waiting.state is State.INCOMPLETE
    assert waiting.due_s == final_from_s(waiting, PATIENCE) == 100.0 + 300.0
    assert happen(waiting, Happening.DUE, 400.0, PATIENCE).state is State.READY


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
        assert (tracked.state is State.READY) == (now_s >= since_s + 2.0)
