"""Registration through the real commands: by hand, in results, and of two views."""

import json

import pydicom
import pytest

from tests.edge.planned_room import CARINA, PLANNED_UID, ROW, plan_bytes

# --- by hand ---


def test_an_image_is_registered_with_a_planned_image(command, room):
    """The receptor stands 3 and -6 mm aside at SID 1500: 2 and -4 mm in the isocentre plane."""
    done = command("register", room.put("X.dcm", (2.0, -4.0)), room.planned(), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["reason"]) == (0, "ok", None), done.stdout
    assert (told["shift_mm"]["x"], told["shift_mm"]["y"]) == pytest.approx((2.0, -4.0), abs=0.01)  # mm
    assert told["n_used"] == len(ROW + CARINA)
    assert not (room.drop / "X.landmarks.json").exists()


def test_an_image_registered_with_itself_has_not_moved(command, room):
    told = json.loads(command("register", room.put(), room.drop / "X.dcm", "--json").stdout)
    assert told["shift_mm"] == {"x": 0.0, "y": 0.0}


def test_a_registration_is_told_in_words(command, room):
    done = command("register", room.put("X.dcm", (2.0, -4.0)), room.planned())
    assert done.stdout.startswith("shift from the reference: x +2.0 +- ")
    assert "to undo it the patient moves by the opposite" in done.stdout


def test_a_reference_of_another_gantry_angle_is_withheld_with_1(command, room):
    done = command("register", room.put(gantry="180"), room.planned(), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["shift_mm"]) == (1, "withheld", None)
    assert told["reason"] == "the reference is of another gantry angle (90.0 deg) than the image (180.0 deg)"


def test_a_file_that_is_no_image_is_refused_with_1(command, room):
    (room.root / "text").write_text("hello")
    done = command("register", room.root / "text", room.planned())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("refused: text: ")


def test_a_json_file_that_is_no_reference_is_misuse(command, room):
    (room.root / "x.json").write_text("{}")
    done = command("register", room.put(), room.root / "x.json")
    assert done.returncode == 2
    assert "not a reference of this version" in done.stderr


# --- in results ---


def test_an_image_whose_beam_has_a_reference_gets_its_shift_in_the_result(command, room, with_reference):
    room.put("X.dcm", (2.0, -4.0))
    assert command("process", room.drop).returncode == 0
    told = room.result()["registration"]
    assert (told["status"], told["reference"]["key"]) == ("ok", with_reference)
    assert (told["shift_mm"]["x"], told["shift_mm"]["y"]) == pytest.approx((2.0, -4.0), abs=0.01)  # mm
    assert command("register", room.drop / "X.dcm", room.planned(), "--json").returncode == 0


def test_the_command_prints_the_object_of_the_result(command, room, with_reference):
    image = room.put("X.dcm", (2.0, -4.0))
    assert command("process", room.drop).returncode == 0
    (stored,) = room.references.iterdir()
    assert json.loads(command("register", image, stored, "--json").stdout) == room.result()["registration"]


@pytest.mark.parametrize("change", [{"beam": "2"}, {"beam": None}, {"PatientID": "PID-7"}], ids=str)
def test_an_image_of_another_beam_or_patient_has_no_reference(command, room, with_reference, change):
    room.put(**change)
    assert command("process", room.drop).returncode == 0
    assert room.result()["registration"] is None


def test_an_image_of_no_plan_is_matched_by_its_name(command, room):
    done = command("reference", "add", room.planned(beam=None), "--by-rule")
    key = done.stdout.split()[1]
    room.configure("[[reference_rule]]", 'image_name = "X.*"', f"reference = '{key}'")
    room.put("X.dcm", (2.0, 0.0), beam=None)
    room.put("Y.dcm", (2.0, 0.0), beam=None)
    assert command("process", room.drop).returncode == 0
    assert room.result("X")["registration"]["status"] == "ok"
    assert room.result("Y")["registration"] is None


def test_a_rule_whose_reference_is_not_there_withholds(command, room):
    room.configure("[[reference_rule]]", 'image_name = ".*"', f"reference = '{'a' * 64}'")
    room.put(beam=None)
    assert command("process", room.drop).returncode == 0
    told = room.result()["registration"]
    assert told["status"] == "withheld"
    assert "that a rule names for it is not in the store" in told["reason"]


def test_a_damaged_reference_withholds_and_names_no_folder(command, room, with_reference):
    (stored,) = room.references.iterdir()
    stored.write_text("{}")
    room.put()
    assert command("process", room.drop).returncode == 0
    told = room.result()["registration"]
    assert (told["status"], told["reference"]) == ("withheld", None)
    assert told["reason"].startswith(f"the reference cannot be used: {stored.name}: ")


def test_a_wrong_reference_is_withheld(command, room, with_reference):
    """Landmarks that lie 40 mm lower than any setup puts them belong to another plan."""
    shown = json.loads(command("reference", "show", with_reference).stdout)
    for one in shown["landmarks"]:
        one["y_mm"] += 40.0
    (room.root / "wrong.json").write_text(json.dumps(shown))
    assert command("reference", "add", room.root / "wrong.json", "--replace").returncode == 0
    room.put()
    assert command("process", room.drop).returncode == 0
    told = room.result()["registration"]
    assert (told["status"], told["shift_mm"], told["interval95_mm"]) == ("withheld", None, None)


def test_gantry_0_is_believed_on_the_word_of_the_plan_s_beam(command, room):
    (room.root / "plan.dcm").write_bytes(plan_bytes(("0", "90"), (PLANNED_UID, "1.2.826.7.9")))
    added = command("reference", "add", room.planned(gantry="0"), "--plan", room.root / "plan.dcm")
    assert added.returncode == 0, added.stderr
    room.put(gantry="0")
    room.put("Y.dcm", gantry="0", beam=None)
    assert command("process", room.drop).returncode == 0
    believed, doubted = room.result("X")["geometry"], room.result("Y")["geometry"]
    assert (believed["gantry_deg"], believed["sources"]["gantry_deg"]) == (0.0, "GantryAngle, as planned (0)")
    assert (doubted["gantry_deg"], doubted["warnings"]) == (None, ["gantry_untrusted"])


def test_each_reference_gives_a_result_a_key_and_objects_of_their_own(command, room, with_reference):
    """A corrected, damaged or removed reference makes another result of the same image: none may pass for another."""
    room.configure("structured_report = true")
    room.put()
    (stored,) = room.references.iterdir()
    told = [*done_with(command, room)]
    stored.write_text(stored.read_text().replace('"signed_off_by": null', '"signed_off_by": "A. Physicist"'))
    told += done_with(command, room)
    stored.write_text("{}")
    told += done_with(command, room)
    stored.unlink()
    told += done_with(command, room)
    assert len(set(told)) == 4 * 2


def done_with(command, room):
    """Return the key of the image's result, and the series of its report."""
    assert command("process", room.drop).returncode == 0
    report = pydicom.dcmread(room.drop / "X.landmarks.sr.dcm")
    return room.result()["provenance"]["key"], str(report.SeriesInstanceUID)


def test_a_reference_of_another_release_is_named(command, room, with_reference):
    shown = json.loads(command("reference", "show", with_reference).stdout) | {"release": "older-0"}
    (room.root / "older.json").write_text(json.dumps(shown))
    command("reference", "add", room.root / "older.json", "--replace")
    room.put()
    assert command("process", room.drop).returncode == 0
    assert any("another release (older-0)" in one for one in room.result()["registration"]["warnings"])


# --- two views ---


@pytest.fixture
def two_results(command, room):
    """Return the results of two views, whose anatomy lies 3 mm right, 4 towards the gantry and 5 high (geometry.md)."""
    (room.root / "plan.dcm").write_bytes(plan_bytes(("90", "0")))
    for name, gantry, uid in (("lateral", "90", PLANNED_UID), ("ap", "0", "1.2.826.7.9")):
        planned = room.planned(f"{name}.drr", gantry=gantry, uid=uid, beam=None)
        assert command("reference", "add", planned, "--plan", room.root / "plan.dcm").returncode == 0
    room.put("ap.dcm", (3.0, 4.0), beam="2", gantry="0")
    room.put("lateral.dcm", (-5.0, 4.0), beam="1", gantry="90")
    assert command("process", room.drop).returncode == 0
    return room.drop / "ap.landmarks.json", room.drop / "lateral.landmarks.json"


def test_two_views_make_a_shift_of_the_room_and_a_couch_move_against_it(command, two_results):
    done = command("two-views", *two_results, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["remark"]) == (0, "ok", None), done.stdout
    assert tuple(told["shift_mm"].values()) == pytest.approx((3.0, 4.0, 5.0), abs=0.02)  # mm
    assert told["shared_axis_mm"] == pytest.approx(0.0, abs=0.02)
    move = told["couch_move"]
    along = move["lateral_mm"], move["longitudinal_mm"], move["vertical_mm"]
    assert along == pytest.approx((-3.0, -4.0, -5.0), abs=0.02)


def test_the_couch_move_counts_as_this_room_s_display_does(command, room, two_results):
    room.configure("[couch]", "name = 'room 1'", "lateral = 1", "longitudinal = 1", "vertical = -1")
    move = json.loads(command("two-views", *two_results, "--json").stdout)["couch_move"]
    assert (move["vertical_mm"], move["scale"]) == (pytest.approx(5.0, abs=0.02), "room 1")
    assert "vertical +5.0 mm (scale: room 1)" in command("two-views", *two_results).stdout


def test_one_view_twice_is_withheld(command, two_results):
    done = command("two-views", two_results[0], two_results[0], "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "withheld")


def test_views_of_two_plans_are_misuse(command, two_results):
    other = json.loads(two_results[1].read_bytes())
    other["registration"]["reference"]["plan"] = "f" * 64
    two_results[1].write_text(json.dumps(other))
    done = command("two-views", *two_results)
    assert done.returncode == 2
    assert "are of two plans or patients" in done.stderr


def test_a_result_without_a_registration_is_misuse(command, room):
    room.put(beam=None)
    assert command("process", room.drop).returncode == 0
    done = command("two-views", room.drop / "X.landmarks.json", room.drop / "X.landmarks.json")
    assert done.returncode == 2
    assert "holds no registration" in done.stderr
