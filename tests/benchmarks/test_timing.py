import pytest

from benchmarks.timing import Spread, alternate, differences, ratios, spread, timed


def turns_of(log, *names):
    return {name: lambda name=name: log.append(name) or float(len(log)) for name in names}


def test_each_takes_one_turn_a_round_and_the_order_changes():
    log = []
    alternate(turns_of(log, "a", "b", "c"), rounds=20, seed=3, warm_up=0)
    rounds = [tuple(log[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1


def test_the_same_seed_gives_the_same_orders_and_another_one_does_not():
    logs = [[], [], []]
    for log, seed in zip(logs, (1, 1, 2), strict=True):
        alternate(turns_of(log, "a", "b", "c"), rounds=20, seed=seed)
    assert logs[0] == logs[1] != logs[2]


def test_rounds_to_warm_up_come_first_and_do_not_count():
    log = []
    taken = alternate(turns_of(log, "a"), rounds=3, warm_up=2)
    assert taken == {"a": [3.0, 4.0, 5.0]}


def test_a_turn_takes_what_the_clock_says():
    clock = iter((10.0, 12.5)).__next__
    assert timed(lambda: None, clock)() == 2.5


def test_ratios_are_of_the_same_round():
    """The machine was ten times slower in one round: that is no tenfold difference."""
    assert ratios([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]) == Spread(0.5, 0.5, 0.5, 3)


def test_rounds_that_do_not_pair_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="zip"):
        differences([1.0], [1.0, 2.0])


def test_the_median_of_ratios_is_not_the_ratio_of_medians():
    ours, theirs = [1.0, 2.0, 30.0], [10.0, 4.0, 10.0]
    assert ratios(ours, theirs).median == 0.5  # of 0.1, 0.5 and 3; the medians' would be 0.2


def test_four_of_five_values_lie_between_low_and_high():
    found = spread([float(value) for value in range(11)])  # 0 to 10: a tenth of the way is 1
    assert found == Spread(median=5.0, low=1.0, high=9.0, pairs=11)


def test_between_two_values_percentiles_lie_in_proportion():
    found = spread([3.0, 1.0])
    assert (found.low, found.median, found.high) == (pytest.approx(1.2), 2.0, pytest.approx(2.8))


def test_differences_are_ours_minus_theirs():
    assert differences([5.0, 7.0], [1.0, 2.0]).median == 4.5
