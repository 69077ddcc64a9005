import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edge.cli import app
from edge.demo import BEYOND_MM, LINES, NEAR_MM, DemoError, await_result, read_truth, rows, run_demo, table, watching
from edge.service.state import JOURNAL
from landmarknet.dataset import SPINOUS_MARGIN_MM

ERROR_MM = 4  # column of a row


def one(kind, x_mm, y_mm, score=None):
    """Return a true landmark, or (with a score) one that was found; 2 px a mm, +y up in mm and down in px."""
    place = {"kind": kind, "x_px": 2 * x_mm + 100, "y_px": 100 - 2 * y_mm, "x_mm": x_mm, "y_mm": y_mm}
    return place if score is None else place | {"score": score}


def image(*landmarks, hidden=(), unlabelled=()):
    """Return the truth of one image."""
    return {
        "patient": "lidc0002",
        "landmarks": list(landmarks),
        "hidden": list(hidden),
        "unlabelled": list(unlabelled),
    }


def paired(truth, found):
    return [(row[0], row[ERROR_MM]) for row in rows(image(*truth), found)]


# --- pairing ---


def test_a_found_landmark_stands_with_its_errors_beside_the_true_one():
    (row,) = rows(image(one("louis_angle", 10, 20)), [one("louis_angle", 13, 24, 0.876)])
    # off by 3 and 4 mm, and a mm is 2 px
    assert row == ("louis_angle", "126.0, 52.0", "13.0, 24.0", "10.0", "5.0", "0.88")


def test_one_that_is_not_found_is_missed_and_shows_the_true_place():
    (row,) = rows(image(one("louis_angle", 10, 20)), [])
    assert row == ("louis_angle", "(120.0, 60.0)", "(10.0, 20.0)", "", "missed", "")


def test_one_that_is_none_is_extra():
    (row,) = rows(image(), [one("louis_angle", 10, 20, 0.5)])
    assert row == ("louis_angle", "120.0, 60.0", "10.0, 20.0", "", "extra", "0.50")


def test_another_kind_at_the_same_place_is_no_pair():
    assert paired([one("a", 0, 0)], [one("b", 0, 0, 0.9)]) == [("a", "missed"), ("b", "extra")]


@pytest.mark.parametrize(("off_mm", "figures"), [(NEAR_MM, [("a", f"{NEAR_MM:.1f}")]), (NEAR_MM + 0.1, None)])
def test_too_far_away_is_missed_and_extra(off_mm, figures):
    pairs = paired([one("a", 0, 0)], [one("a", off_mm, 0, 0.9)])
    assert pairs == (figures or [("a", "missed"), ("a", "extra")])


def test_pairs_are_one_to_one():
    truth, found = [one("a", 0, 0), one("a", 0, 8)], [one("a", 0, 1, 0.9)]
    assert paired(truth, found) == [("a", "1.0"), ("a", "missed")]
    assert paired(found, [{**one, "score": 0.9} for one in truth]) == [("a", "1.0"), ("a", "extra")]


def test_the_nearest_pair_comes_first_and_not_the_first_named():
    truth, found = [one("a", 0, 0), one("a", 0, 10)], [one("a", 0, 9, 0.9), one("a", 0, -7, 0.8)]
    assert paired(truth, found) == [("a", "7.0"), ("a", "1.0")]  # the first found is nearer to the second


def test_rows_follow_the_truth_and_then_what_is_extra():
    truth = [one("b", 0, 50), one("a", 0, 0)]
    found = [one("c", 0, 0, 0.9), one("a", 0, 1, 0.9)]
    assert paired(truth, found) == [("b", "missed"), ("a", "1.0"), ("c", "extra")]


def test_without_millimetres_nothing_can_be_paired():
    found = one("a", 0, 0, 0.9) | {"x_mm": None, "y_mm": None}
    assert list(rows(image(one("a", 0, 0)), [found]))[1] == ("a", "100.0, 100.0", "", "", "extra", "0.90")


# --- beyond the labels ---


def spine(*heights_mm, x_mm=0.0):
    return [one("spinous_process", x_mm, y) for y in heights_mm]


@pytest.mark.parametrize(
    ("y_mm", "said"),
    [
        (50 + BEYOND_MM + 0.1, "unlabelled"),
        (-50 - BEYOND_MM - 0.1, "unlabelled"),
        (50 + BEYOND_MM, "extra"),
        (-50 - BEYOND_MM, "extra"),
        (0, "extra"),
    ],
)
def test_above_and_below_the_labelled_spine_nothing_is_known(y_mm, said):
    found = one("spinous_process", 40, y_mm, 0.5)  # 40 mm beside: none of the true ones
    row = list(rows(image(*spine(-50, 50)), [found]))[-1]
    assert said in row
    assert row[0] == "spinous_process"
    assert row[1] == f"180.0, {100 - 2 * y_mm:.1f}"
    assert row[-1] == "0.50"


def test_the_labelled_spine_goes_on_where_the_collimator_hides_it():
    found = [one("spinous_process", 0, 100, 0.5)]
    assert list(rows(image(*spine(-50, 50)), found))[-1][2] == "unlabelled"
    assert list(rows(image(*spine(-50, 50), hidden=spine(120)), found))[-1][ERROR_MM] == "extra"
    hidden_of_another_kind = image(*spine(-50, 50), hidden=[one("louis_angle", 0, 120)])
    assert list(rows(hidden_of_another_kind, found))[-1][2] == "unlabelled"


def test_the_table_and_the_evaluation_agree_on_where_nothing_is_known():
    assert BEYOND_MM == SPINOUS_MARGIN_MM


def test_other_kinds_have_no_beyond():
    assert paired([one("louis_angle", 0, 0)], [one("louis_angle", 0, 100, 0.9)])[-1] == ("louis_angle", "extra")


def test_a_spinous_process_where_none_is_labelled_is_extra():
    assert paired([], [one("spinous_process", 0, 100, 0.9)]) == [("spinous_process", "extra")]


def test_a_kind_that_has_no_labels_in_this_view_is_not_called_extra():
    (row,) = rows(image(unlabelled=["louis_angle"]), [one("louis_angle", 10, 20, 0.5)])
    assert row == ("louis_angle", "120.0, 60.0", "unlabelled", "", "", "0.50")


# --- lines ---


def line(*places):
    return [one("spine_line", x, y, 0.8) for x, y in places]


def line_rows(truth, found):
    return [row for row in rows(truth, found) if row[0] == "spine_line"]


def test_a_line_has_one_row_with_its_mean_error_to_the_side():
    # true: from (0, 50) to (20, -50), so that x is 10 at y = 0; the points lie 3, 1 and 2 mm beside it
    truth = image(one("spinous_process", 20, -50), one("spinous_process", 0, 50))
    found = line((0 + 3, 50), (10 - 1, 0), (20 + 2, -50))
    assert line_rows(truth, found) == [("spine_line", "3 points", "3 compared", "4.0", "2.0", "0.80")]


def test_a_line_is_compared_along_the_polyline_and_not_to_a_straight_one():
    truth = image(*(one("spinous_process", x, y) for x, y in ((0, 50), (30, 0), (0, -50))))
    assert line_rows(truth, line((15, 25), (30, 0), (15, -25)))[0][3:5] == ("0.0", "0.0")


def test_points_above_and_below_the_true_ones_are_counted_and_not_compared():
    truth = image(*spine(-50, 50), hidden=spine(80))
    found = line((90, 51), (2, 50), (2, 0), (2, -50), (90, -51))
    assert line_rows(truth, found) == [("spine_line", "5 points", "3 compared", "4.0", "2.0", "0.80")]


@pytest.mark.parametrize("found", [[], line((0, 60), (0, 70))])
def test_a_line_that_does_not_reach_the_true_ones_is_missed(found):
    ((_, count, compared, error_px, error_mm, _),) = line_rows(image(*spine(-50, 50)), found)
    assert (count, compared, error_px, error_mm) == ("2 points" if found else "", "", "", "missed")


@pytest.mark.parametrize("truth", [image(), image(*spine(0))])
def test_without_two_true_ones_a_line_cannot_be_judged(truth):
    assert line_rows(truth, line((0, 0), (0, 10)))[0][1:5] == ("2 points", "unlabelled", "", "")
    assert line_rows(truth, []) == []


def test_a_line_s_points_are_never_extra_nor_pairs():
    truth = image(*spine(-50, 50))
    shown = list(rows(truth, line(*((90, y) for y in range(-100, 101, 10)))))
    assert [row[0] for row in shown] == ["spinous_process"] * 2 + ["spine_line"]
    assert [row[ERROR_MM] for row in shown] == ["missed", "missed", "90.0"]


def test_a_line_without_millimetres_is_compared_in_pixels():
    found = [one | {"x_mm": None, "y_mm": None} for one in line((2, 50), (2, -50))]
    assert line_rows(image(*spine(-50, 50)), found) == [("spine_line", "2 points", "2 compared", "4.0", "", "0.80")]


def test_a_line_stands_between_the_true_landmarks_and_what_is_extra():
    found = [*line((0, 0), (0, 10)), one("louis_angle", 0, 0, 0.9)]
    assert [row[0] for row in rows(image(*spine(-50, 50)), found)] == [
        "spinous_process", "spinous_process", "spine_line", "louis_angle",
    ]  # fmt: skip


def test_every_line_of_the_shipped_release_is_known_as_one_and_has_true_landmarks_to_run_through(shipped):
    kinds = {kind.kind: kind.shape for kind in shipped.contract.kinds}
    assert {kind for kind, shape in kinds.items() if shape == "line"} == set(LINES)
    assert {kinds[through] for through in LINES.values()} == {"point"}


# --- table ---


def printed(page, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(page)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_is_whole_on_80_columns(width):
    true = [one("spinous_process", -180.25, y) for y in (-99.5, 199.5)]
    truth = {
        f"lidc0002_lateral_drr_{number:02}.dcm": image(one("tracheal_bifurcation", -180.25, 199.5), *true)
        for number in range(2)
    }
    found = [
        one("tracheal_bifurcation", -178.25, 199.5, 0.91),
        one("spinous_process", -180.25, -150.5, 0.61),
        one("spinous_process", -140.25, -80.5, 0.51),
        *line(*((-80.25, 5 * y) for y in range(-20, 44))),
    ]
    results = {name: {"landmarks": found, "timing_ms": {"read": 1.4, "infer": 1234.2}} for name in truth}
    text = printed(table(truth, results), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("lidc0002_lateral_drr_01", "tracheal bifurcation", "(-260.5, -299.0)", "(-180.2, 199.5)", "1236"):
        assert whole in text
    assert all(word in text for word in ("64 points", "59 compared", "200.0", "100.0", "unlabelled", "extra", "missed"))
    assert all(heading in text for heading in ("image", "landmark", "px", "mm", "error", "score", "ms"))


@pytest.mark.parametrize(
    ("patients", "said"),
    [(["lidc0002"], "never saw"), (["trained"], "was trained on"), (["lidc0002", "trained"], "was")],
)
def test_the_title_says_whether_the_network_knows_the_patient(shipped, patients, said):
    names = [shipped.contract.trained_on[0] if name == "trained" else name for name in patients]
    truth = {name: image() | {"patient": name} for name in names}
    text = printed(table(truth, {name: {"landmarks": [], "timing_ms": {}} for name in names}), 80)
    assert "simulated" in text
    assert f"the network {said}" in text


# --- the demonstration ---


@pytest.fixture(scope="module")
def demonstration(samples):
    """Return what a demonstration on the samples printed, and its drop folder."""
    console = Console(file=io.StringIO(), width=80)
    run_demo(samples, console)
    text = console.file.getvalue()
    drop_folder = Path(text.strip().rsplit(": ", 1)[1])
    yield text, drop_folder
    shutil.rmtree(drop_folder)


def test_every_landmark_of_the_samples_stands_in_the_table(demonstration, samples):
    text, _ = demonstration
    for name, image in json.loads((samples / "truth.json").read_text())["images"].items():
        _, _, part = text.partition(f"\n{Path(name).stem} ")
        part, _, _ = part.partition("\n     ")  # an empty row ends it
        for kind in {one["kind"] for one in image["landmarks"]}:
            true = [one for one in image["landmarks"] if one["kind"] == kind]
            lines = [line for line in part.splitlines() if line.startswith(f"  {kind.replace('_', ' ')} ")]
            assert len([line for line in lines if not {"extra", "unlabelled"} & set(line.split())]) == len(true)
        (spine,) = (line for line in part.splitlines() if line.startswith("  spine line "))
        assert " points " in spine
        assert "extra" not in spine


def test_the_demonstration_fits_80_columns(demonstration):
    text, _ = demonstration
    page, _, _ = text.partition("SIMULATED")
    assert max(map(len, page.splitlines())) <= 80
    assert "…" not in page


def test_the_demonstration_says_what_it_is_and_whose_images_these_are(demonstration, samples):
    text, _ = demonstration
    truth = json.loads((samples / "truth.json").read_text())
    assert "not a medical device" in text
    assert truth["notice"] in text
    assert truth["attribution"][0] in text


def test_the_results_and_overlays_are_where_it_says_and_not_among_the_samples(demonstration, samples):
    _, drop_folder = demonstration
    images = sorted(path.stem for path in samples.glob("*.dcm"))
    for suffix in (".dcm", ".landmarks.json", ".landmarks.png"):
        assert sorted(path.name.removesuffix(suffix) for path in drop_folder.glob(f"*{suffix}")) == images
    assert not list(samples.glob("*.landmarks.*"))


def test_the_demonstration_keeps_its_state_to_itself(demonstration):
    _, drop_folder = demonstration
    assert (drop_folder / ".state" / JOURNAL).is_file()  # the user's may be held by a daemon that serves


def test_a_folder_without_truth_is_refused_with_what_to_do(tmp_path):
    outcome = CliRunner().invoke(app, ["demo", str(tmp_path)])
    assert outcome.exit_code == 1
    assert "holds no truth.json" in outcome.stderr
    assert "simulate" in outcome.stderr


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": 3}'])
def test_a_truth_of_another_sort_is_refused(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(DemoError, match=r"truth\.json"):
        read_truth(tmp_path)


def test_a_missing_sample_is_named(samples, tmp_path):
    shutil.copy(samples / "truth.json", tmp_path)
    with pytest.raises(DemoError, match=r"lacks lidc0002_ap_drr_00\.dcm, "):
        read_truth(tmp_path)


def wait_for_a_killed_daemon(folder):
    with watching(folder) as daemon:
        daemon.kill()
        daemon.wait()
        await_result(folder / "X.dcm", daemon)


def test_a_daemon_that_ended_is_not_waited_for_and_its_last_words_are_told(tmp_path):
    with pytest.raises(DemoError, match=r"X\.dcm: no result before the daemon ended; the daemon said:\n"):
        wait_for_a_killed_daemon(tmp_path)
