"""Registration and its outputs through the real commands and a real daemon, with a release that states its sigmas."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from types import SimpleNamespace

import pydicom
import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.planned_beam import beam_key
from tests.edge.planned_room import (
    CARINA,
    PATIENT,
    PLAN_UID,
    PLANNED_UID,
    ROW,
    SECRETS,
    PlannedRoom,
    plan_bytes,
    write_release,
)

DICOM = ("structured_report", "presentation_state", "spatial_registration")
SUFFIXES = {"structured_report": "sr", "presentation_state": "pr", "spatial_registration": "reg"}


@pytest.fixture(scope="module")
def release(tmp_path_factory, contract, rows, tiny_model):
    peaks = rows(ROW, CARINA)
    return write_release(tmp_path_factory.mktemp("planned") / "release", contract, peaks, tiny_model(peaks))


@pytest.fixture
def room(tmp_path, release, dicom, collimated):
    return PlannedRoom(tmp_path, release, dicom, collimated())


@pytest.fixture
def command(room):
    """Return a function that runs a command, in this process, with the room's configuration."""

    def run(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(room.config)])
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    return run


@pytest.fixture
def daemon(landmarknet_edge, room):
    """Return a function that has a daemon of its own try every file that is there, and returns it when it has ended."""
    return lambda: landmarknet_edge("watch", "--once", "--config", room.config, cwd=room.root)


@pytest.fixture
def with_reference(command, room):
    """Return the key of a reference for beam 1 of the plan."""
    (room.root / "plan.dcm").write_bytes(plan_bytes())
    done = command("reference", "add", room.planned(beam=None), "--plan", room.root / "plan.dcm", "--with-uids")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


def result(room, name="X"):
    return json.loads((room.drop / f"{name}.landmarks.json").read_bytes())


def outputs(folder):
    """Return the bytes of all outputs but the JSON, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*.landmarks.*") if path.suffix != ".json"}


# --- references ---


def test_a_reference_is_found_by_the_plan_that_refers_to_its_image(command, room, with_reference):
    shown = json.loads(command("reference", "show", with_reference).stdout)
    assert (shown["key"], shown["gantry_deg"], len(shown["landmarks"])) == (with_reference, 90.0, len(ROW + CARINA))
    assert shown["planned_image"]["sop_instance_uid"] == PLANNED_UID
    listed = command("reference", "list").stdout
    assert listed == f"{with_reference}  gantry 90 deg, 5 landmarks by small-1, signed by nobody\n"


def test_a_reference_holds_neither_name_nor_id(room, with_reference):
    (path,) = room.references.iterdir()
    assert path.name == f"{with_reference}.reference.json"
    assert not any(secret in path.read_bytes() for secret in SECRETS)


def test_without_being_asked_a_reference_keeps_no_uid(command, room):
    assert command("reference", "add", room.planned()).returncode == 0
    (path,) = room.references.iterdir()
    assert b"1.2.826" not in path.read_bytes()


def test_a_second_reference_of_a_beam_is_added_only_in_place_of_the_first(command, room, with_reference):
    again = command("reference", "add", room.planned())
    assert again.returncode == 2
    assert "this beam has a reference" in again.stderr
    assert command("reference", "add", room.planned(), "--replace").returncode == 0


def test_a_reference_that_is_removed_is_gone(command, room, with_reference):
    assert command("reference", "remove", with_reference).returncode == 0
    assert command("reference", "list").stdout == ""
    assert command("reference", "remove", with_reference).returncode == 2


def test_what_a_person_signed_takes_the_place_of_the_network_s(command, room, with_reference):
    shown = json.loads(command("reference", "show", with_reference).stdout)
    signed = shown | {
        "landmarks_from": "person",
        "release": None,
        "signed_off_by": "A. Physicist",
        "signed_off_utc": "2026-01-06T07:08:09Z",
    }
    (room.root / "signed.json").write_text(json.dumps(signed))
    done = command("reference", "add", room.root / "signed.json", "--replace")
    assert (done.returncode, done.stdout.splitlines()[1]) == (
        0,
        "gantry 90 deg, 5 landmarks by a person, signed by A. Physicist",
    )
    room.put("X.dcm", (2.0, 0.0))
    assert command("process", room.drop).returncode == 0
    assert result(room)["registration"]["reference"]["signed_off"] is True
    assert b"Physicist" not in (room.drop / "X.landmarks.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beam": None}, "names no plan and beam"),
        ({"RTImageSID": None}, "has no millimetres"),
    ],
)
def test_an_image_that_cannot_be_a_reference_is_named_with_the_reason(command, room, change, said):
    done = command("reference", "add", room.planned(**change))
    assert done.returncode == 2
    assert said in done.stderr
    assert not room.references.exists()


def test_a_planned_image_of_another_gantry_angle_than_its_beam_is_no_reference_of_it(command, room):
    (room.root / "plan.dcm").write_bytes(plan_bytes())
    done = command("reference", "add", room.planned(gantry="45"), "--plan", room.root / "plan.dcm")
    assert done.returncode == 2
    assert "states gantry 45 deg, its plan's beam 90" in done.stderr


def test_a_plan_that_does_not_refer_to_the_image_is_told(command, room):
    (room.root / "plan.dcm").write_bytes(plan_bytes())
    done = command("reference", "add", room.planned(uid="1.2.3"), "--plan", room.root / "plan.dcm")
    assert done.returncode == 2
    assert "no of its beams refer to drr.dcm" in done.stderr


def test_without_a_folder_of_references_the_command_says_where_to_name_it(landmarknet_edge, room):
    done = landmarknet_edge("reference", "list", cwd=room.root)
    assert done.returncode == 2
    assert "no folder of references is named" in done.stderr


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
    told = result(room)["registration"]
    assert (told["status"], told["reference"]["key"]) == ("ok", with_reference)
    assert (told["shift_mm"]["x"], told["shift_mm"]["y"]) == pytest.approx((2.0, -4.0), abs=0.01)  # mm
    assert command("register", room.drop / "X.dcm", room.planned(), "--json").returncode == 0


def test_the_command_prints_the_object_of_the_result(command, room, with_reference):
    image = room.put("X.dcm", (2.0, -4.0))
    assert command("process", room.drop).returncode == 0
    (stored,) = room.references.iterdir()
    assert json.loads(command("register", image, stored, "--json").stdout) == result(room)["registration"]


@pytest.mark.parametrize("change", [{"beam": "2"}, {"beam": None}, {"PatientID": "PID-7"}], ids=str)
def test_an_image_of_another_beam_or_patient_has_no_reference(command, room, with_reference, change):
    room.put(**change)
    assert command("process", room.drop).returncode == 0
    assert result(room)["registration"] is None


def test_an_image_of_no_plan_is_matched_by_its_name(command, room):
    done = command("reference", "add", room.planned(beam=None), "--by-rule")
    key = done.stdout.split()[1]
    room.configure("[[reference_rule]]", 'image_name = "X.*"', f"reference = '{key}'")
    room.put("X.dcm", (2.0, 0.0), beam=None)
    room.put("Y.dcm", (2.0, 0.0), beam=None)
    assert command("process", room.drop).returncode == 0
    assert result(room, "X")["registration"]["status"] == "ok"
    assert result(room, "Y")["registration"] is None


def test_a_rule_whose_reference_is_not_there_withholds(command, room):
    room.configure("[[reference_rule]]", 'image_name = ".*"', f"reference = '{'a' * 64}'")
    room.put(beam=None)
    assert command("process", room.drop).returncode == 0
    told = result(room)["registration"]
    assert told["status"] == "withheld"
    assert "that a rule names for it is not in the store" in told["reason"]


def test_a_damaged_reference_withholds_and_names_no_folder(command, room, with_reference):
    (stored,) = room.references.iterdir()
    stored.write_text("{}")
    room.put()
    assert command("process", room.drop).returncode == 0
    told = result(room)["registration"]
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
    told = result(room)["registration"]
    assert (told["status"], told["shift_mm"], told["interval95_mm"]) == ("withheld", None, None)


def test_gantry_0_is_believed_on_the_word_of_the_plan_s_beam(command, room):
    (room.root / "plan.dcm").write_bytes(plan_bytes(("0", "90"), (PLANNED_UID, "1.2.826.7.9")))
    added = command("reference", "add", room.planned(gantry="0"), "--plan", room.root / "plan.dcm")
    assert added.returncode == 0, added.stderr
    room.put(gantry="0")
    room.put("Y.dcm", gantry="0", beam=None)
    assert command("process", room.drop).returncode == 0
    believed, doubted = result(room, "X")["geometry"], result(room, "Y")["geometry"]
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
    return result(room)["provenance"]["key"], str(report.SeriesInstanceUID)


def test_a_reference_of_another_release_is_named(command, room, with_reference):
    shown = json.loads(command("reference", "show", with_reference).stdout) | {"release": "older-0"}
    (room.root / "older.json").write_text(json.dumps(shown))
    command("reference", "add", room.root / "older.json", "--replace")
    room.put()
    assert command("process", room.drop).returncode == 0
    assert any("another release (older-0)" in one for one in result(room)["registration"]["warnings"])


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


# --- DICOM outputs ---


@pytest.mark.parametrize("wanted", [(), *((one,) for one in DICOM), DICOM], ids=lambda one: "+".join(one) or "none")
def test_only_the_dicom_outputs_that_are_wanted_are_made(command, room, with_reference, wanted):
    room.configure(*(f"{one} = true" for one in wanted))
    room.put("X.dcm", (2.0, 0.0))
    assert command("process", room.drop).returncode == 0
    expected = {"X.landmarks.png"} | {f"X.landmarks.{SUFFIXES[one]}.dcm" for one in wanted}
    assert set(outputs(room.drop)) == expected
    listed = {one["name"]: one["sha256"] for one in result(room)["outputs"]}
    assert set(listed) == expected
    for name in expected - {"X.landmarks.png"}:
        assert pydicom.dcmread(room.drop / name).PatientID == "PID-424242"
        assert not any(secret in json.dumps(result(room)).encode() for secret in SECRETS)


def test_no_registration_no_registration_object_and_the_reason(command, room):
    room.configure("spatial_registration = true")
    room.put()
    assert command("process", room.drop).returncode == 0
    assert set(outputs(room.drop)) == {"X.landmarks.png"}
    assert result(room)["output_notes"] == ["no registration object, since there is no registration"]


def test_a_reference_without_uids_has_no_registration_object_and_the_reason(command, room):
    room.configure("spatial_registration = true")
    command("reference", "add", room.planned())
    room.put()
    assert command("process", room.drop).returncode == 0
    assert result(room)["output_notes"] == [
        "no registration object, since the file of the reference image is not at hand"
    ]


def test_a_withheld_registration_has_no_number_in_any_output(command, room, with_reference):
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put(gantry="180")
    assert command("process", room.drop).returncode == 0
    assert set(outputs(room.drop)) == {"X.landmarks.png", "X.landmarks.sr.dcm", "X.landmarks.pr.dcm"}
    assert (
        b"registration withheld: the reference is of another gantry angle" in outputs(room.drop)["X.landmarks.sr.dcm"]
    )
    assert b"shift from the reference" not in b"".join(outputs(room.drop).values())


def test_outputs_by_hand_bear_the_time_at_which_the_file_was_last_changed(command, room):
    room.configure("structured_report = true")
    os.utime(room.put(), (1_700_000_000, 1_700_000_000))
    assert command("process", room.drop).returncode == 0
    first = outputs(room.drop)
    assert pydicom.dcmread(room.drop / "X.landmarks.sr.dcm").ContentDate == "20231114"
    (room.drop / "X.landmarks.sr.dcm").unlink()
    assert command("process", room.drop).returncode == 0
    assert outputs(room.drop) == first


# --- in the daemon ---


def test_the_daemon_registers_and_a_replay_after_a_crash_gives_the_same_bytes(daemon, room, with_reference):
    """A crash before the commit leaves outputs without a JSON, and the journal, which says how far it came."""
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put("X.dcm", (2.0, -4.0))
    done = daemon()
    assert done.returncode == 0, done.stderr
    first, told = outputs(room.drop), result(room)
    assert len(first) == 1 + len(DICOM)
    assert told["registration"]["status"] == "ok"
    (room.drop / "X.landmarks.json").unlink()
    with closing(sqlite3.connect(room.root / "state" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE files SET state = 'inferred'")
    assert daemon().returncode == 0
    assert outputs(room.drop) == first
    assert result(room) | {"timing_ms": None} == told | {"timing_ms": None}


def test_the_daemon_tells_images_with_a_reference_from_those_without_and_the_wrong_ones(command, daemon, room):
    """Four images: registered, of no plan, of another gantry angle, and with a reference of another body."""
    (room.root / "plan.dcm").write_bytes(plan_bytes(("90", "90")))
    for beam, uid in (("1", PLANNED_UID), ("2", "1.2.826.7.9")):
        planned = room.planned(f"{beam}.drr", uid=uid, beam=None)
        assert command("reference", "add", planned, "--plan", room.root / "plan.dcm", "--with-uids").returncode == 0
    others = room.references / reference_name("2")
    shown = json.loads(others.read_bytes())
    for one in shown["landmarks"]:
        one["y_mm"] += 40.0
    others.write_text(json.dumps(shown))
    room.configure("spatial_registration = true")
    room.put("with.dcm", (2.0, -4.0))
    room.put("without.dcm", beam=None)
    room.put("gantry.dcm", gantry="180")
    room.put("wrong.dcm", beam="2")
    assert daemon().returncode == 0
    told = {name: result(room, name)["registration"] for name in ("with", "without", "gantry", "wrong")}
    assert told["without"] is None
    assert {name: one["status"] for name, one in told.items() if one} == {
        "with": "ok",
        "gantry": "withheld",
        "wrong": "withheld",
    }
    assert sorted(path.name for path in room.drop.glob("*.reg.dcm")) == ["with.landmarks.reg.dcm"]


def reference_name(beam):
    return f"{beam_key(PLAN_UID, int(beam), PATIENT['PatientID'])}.reference.json"


def test_the_daemon_s_outputs_are_dated_by_when_a_file_was_first_seen(daemon, room):
    """An old file that is put there today is reported today; where it is written over later, then."""
    room.configure("structured_report = true")
    os.utime(room.put(), (1_700_000_000, 1_700_000_000))
    assert daemon().returncode == 0
    assert pydicom.dcmread(room.drop / "X.landmarks.sr.dcm").ContentDate > "20231114"


def test_neither_log_nor_result_nor_picture_nor_state_names_the_patient(daemon, room, with_reference):
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put("X.dcm", (2.0, -4.0))
    done = daemon()
    told = [done.stderr.encode(), done.stdout.encode()]
    told += [path.read_bytes() for path in room.drop.iterdir() if path.suffix in {".json", ".png"}]
    told += [path.read_bytes() for path in (room.root / "state").rglob("*") if path.is_file()]
    assert not any(secret in text for secret in SECRETS for text in told)


def test_the_daemon_s_objects_are_valid_dicom(daemon, room, with_reference):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (package dicom3tools)")
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put("X.dcm", (2.0, -4.0))
    assert daemon().returncode == 0
    for one in SUFFIXES.values():
        done = subprocess.run(["dciodvfy", room.drop / f"X.landmarks.{one}.dcm"], capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("latin-1").splitlines()
        assert said
        assert [line for line in said if line.startswith("Error")] == []
