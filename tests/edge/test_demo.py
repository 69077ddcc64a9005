import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edge.cli import app
from edge.demo import NEAR_MM, DemoError, await_result, read_truth, rows, run_demo, table, watching

ERROR_MM = 4  # column of a row


def one(kind, x_mm, y_mm, score=None):
    """Return a true landmark, or (with a score) one that was found; 2 px a mm, +y up in mm and down in px."""
    place = {"kind": kind, "x_px": 2 * x_mm + 100, "y_px": 100 - 2 * y_mm, "x_mm": x_mm, "y_mm": y_mm}
    return place if score is None else place | {"score": score}


def paired(truth, found):
    return [(row[0], row[ERROR_MM]) for row in rows(truth, found)]


# --- pairing ---


def test_a_found_landmark_stands_with_its_errors_beside_the_true_one():
    (row,) = rows([one("louis_angle", 10, 20)], [one("louis_angle", 13, 24, 0.876)])
    # off by 3 and 4 mm, and a mm is 2 px
    assert row == ("louis_angle", "126.0, 52.0", "13.0, 24.0", "10.0", "5.0", "0.88")


def test_one_that_is_not_found_is_missed_and_shows_the_true_place():
    (row,) = rows([one("louis_angle", 10, 20)], [])
    assert row == ("louis_angle", "(120.0, 60.0)", "(10.0, 20.0)", "", "missed", "")


def test_one_that_is_none_is_extra():
    (row,) = rows([], [one("louis_angle", 10, 20, 0.5)])
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
    truth, found = [one("a", 0, 0), one("a", 0, 10)], [one("a", 0, 9, 0.9), one("a", 0, -12, 0.8)]
    assert paired(truth, found) == [("a", "12.0"), ("a", "1.0")]  # the first found is nearer to the second


def test_rows_follow_the_truth_and_then_what_is_extra():
    truth = [one("b", 0, 50), one("a", 0, 0)]
    found = [one("c", 0, 0, 0.9), one("a", 0, 1, 0.9)]
    assert paired(truth, found) == [("b", "missed"), ("a", "1.0"), ("c", "extra")]


def test_without_millimetres_nothing_can_be_paired():
    found = one("a", 0, 0, 0.9) | {"x_mm": None, "y_mm": None}
    assert list(rows([one("a", 0, 0)], [found]))[1] == ("a", "100.0, 100.0", "", "", "extra", "0.90")


# --- table ---


def printed(page, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(page)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_is_whole_on_80_columns(width):
    truth = {
        f"lidc0002_lateral_drr_{number:02}.dcm": {
            "landmarks": [one(kind, -180.25, 199.5) for kind in ("tracheal_bifurcation", "spinous_process")]
        }
        for number in range(2)
    }
    found = [one("tracheal_bifurcation", -178.25, 199.5, 0.91)]
    results = {name: {"landmarks": found, "timing_ms": {"read": 1.4, "infer": 1234.2}} for name in truth}
    text = printed(table(truth, results), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("lidc0002_lateral_drr_01", "tracheal bifurcation", "(-260.5, -299.0)", "(-180.2, 199.5)", "1236"):
        assert whole in text
    assert all(heading in text for heading in ("image", "landmark", "px", "mm", "error", "score", "ms"))


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
            assert len([line for line in lines if " extra " not in line]) == len(true)


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
