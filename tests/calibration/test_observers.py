import numpy as np
import pytest

from calibration.observers import BINS, METHODS, amax, amax_by_entropy, amax_by_mse, empty_histogram, observe


def seen(*batches):
    histogram = empty_histogram()
    for values in batches:
        histogram = observe(histogram, np.asarray(values, np.float32))
    return histogram


def normal(count=200_000, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_a_histogram_that_grew_counts_what_one_made_at_once_counts():
    values = np.abs(normal())
    values = values[np.argsort(values)]  # each part exceeds the reach of those before it
    parts = np.array_split(values, 7)
    histogram = seen(*parts)
    doublings = np.log2(histogram.reach / parts[0].max())
    assert doublings == pytest.approx(round(doublings))
    assert round(doublings) >= 1
    expected, _ = np.histogram(values.astype(float), BINS, (0, histogram.reach))
    # A value within a rounding of float32 of an edge may fall on its other side: far fewer than 1 in 1000.
    assert np.abs(histogram.counts - expected).sum() < 0.001 * values.size
    assert histogram.counts.sum() + histogram.zeros == values.size


def test_at_least_half_of_the_bins_are_used_after_growing():
    histogram = seen([1.0], [1.01])
    assert np.flatnonzero(histogram.counts).max() >= BINS // 2


def test_a_histogram_is_of_one_size_whatever_it_has_seen():
    few, many = seen(normal(1000)), seen(*(normal(20_000, seed) * 3 for seed in range(20)))
    assert few.counts.nbytes == many.counts.nbytes == BINS * 8


def test_observing_leaves_the_earlier_histogram_as_it_was():
    first = seen(normal(1000))
    before = first.counts.copy()
    observe(first, normal(1000, seed=1) * 5)
    np.testing.assert_array_equal(first.counts, before)


def test_max_is_the_largest_absolute_value():
    assert amax(seen([1.0, -7.5], [3.0]))["max"] == 7.5


def test_percentile_is_that_of_the_values_to_within_a_bin():
    values = normal()
    histogram = seen(values[:50_000], values[50_000:])
    expected = float(np.percentile(np.abs(values), 99.99))
    gap = float(
        np.diff(np.sort(np.abs(values))[-60:]).max()
    )  # between the few largest, a percentile is a matter of taste
    assert amax(histogram)["percentile"] == pytest.approx(expected, abs=histogram.reach / BINS + gap)


def published_entropy_calibration(counts, levels=128):
    """Return the divergence per clip, bin by bin as in Migacz's slides (GTC 2017), for clips that end at a full bin."""
    divergence = {}
    for clip in range(levels, len(counts) + 1):
        if counts[clip - 1] == 0:
            continue
        reference = [float(c) for c in counts[:clip]]
        reference[-1] += sum(float(c) for c in counts[clip:])
        quantised = [0.0] * clip
        for level in range(levels):
            start, stop = level * clip // levels, (level + 1) * clip // levels
            full = [i for i in range(start, stop) if counts[i] != 0]
            for i in full:
                quantised[i] = sum(float(counts[j]) for j in full) / len(full)
        p, q = sum(reference), sum(quantised)
        divergence[clip] = sum(r / p * np.log(r / p / (s / q)) for r, s in zip(reference, quantised, strict=True) if r)
    return divergence


def test_entropy_is_the_published_method():
    values = np.abs(np.random.default_rng(3).laplace(size=4000))
    # One value makes a bin 1 wide, the others lie in the first 512: the plain reference is slow.
    histogram = seen([float(BINS)], np.minimum(values * 60, 511).astype(int) + 0.5)
    assert histogram.reach == BINS
    divergence = published_entropy_calibration(histogram.counts)
    assert len(divergence) > 100
    assert amax_by_entropy(histogram) == min(divergence, key=divergence.get)


def test_entropy_clips_a_rare_outlier_that_the_maximum_keeps():
    histogram = seen(normal(), [20.0])
    clipped = amax_by_entropy(histogram)
    assert amax(histogram)["max"] == 20.0
    assert 2.0 < clipped < 6.0  # of 200 000 normal values the largest is at 4.4 or so


def test_entropy_keeps_a_distribution_that_fills_its_range():
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    assert amax_by_entropy(seen(values)) > 0.98


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_mse_finds_the_clip_with_the_smallest_error_of_the_values_themselves(draw):
    values = getattr(np.random.default_rng(1), draw)(size=200_000)
    found = amax_by_mse(seen(values))

    def error(clip):
        step = clip / 127
        return np.mean((values - np.clip(np.round(values / step), -127, 127) * step) ** 2)

    best = min(error(clip) for clip in np.linspace(0.2, 1, 200) * np.abs(values).max())
    assert error(found) <= 1.01 * best  # the optimum is flat: 1 % in the error is 2 to 3 % in the clip
    assert found < 0.95 * np.abs(values).max()


def test_zeros_behind_a_relu_change_no_range():
    values = np.abs(normal())
    alone, among_zeros = seen(values), seen(np.concatenate((values, np.zeros(5_000_000))))
    assert amax(alone) == amax(among_zeros)
    assert among_zeros.zeros == 5_000_000


def test_a_tensor_that_is_always_zero_has_ranges_of_zero():
    assert amax(seen(np.zeros(10), np.zeros(10))) == dict.fromkeys(METHODS, 0.0)


@pytest.mark.parametrize(
    "values",
    [[1.0], [1e-38, 1e-40], [3e38, 1e-38], [0.0, -5.0], [1e-20] * 1000 + [1e20]],
    ids=["one value", "tiny", "from tiny to huge", "negative", "a wild outlier"],
)
def test_every_method_stays_within_the_values(values):
    histogram = empty_histogram()
    for value in values[:2] + values[-1:]:
        histogram = observe(histogram, np.array([value], np.float32))
    found = amax(histogram)
    assert set(found) == set(METHODS)
    assert all(0 < clip <= found["max"] == pytest.approx(np.abs(values).max()) for clip in found.values())
