"""DICOM outputs of registered images, through the real commands and a real daemon."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pydicom
import pytest

from edge.planned_beam import beam_key
from tests.edge.planned_room import PATIENT, PLAN_UID, PLANNED_UID, SECRETS, plan_bytes

DICOM = ("structured_report", "presentation_state", "spatial_registration")
SUFFIXES = {"structured_report": "sr", "presentation_state": "pr", "spatial_registration": "reg"}


@pytest.mark.parametrize("wanted", [(), *((one,) for one in DICOM), DICOM], ids=lambda one: "+".join(one) or "none")
def test_only_the_dicom_outputs_that_are_wanted_are_made(command, room, with_reference, wanted):
    room.configure(*(f"{one} = true" for one in wanted))
    room.put("X.dcm", (2.0, 0.0))
    assert command("process", room.drop).returncode == 0
    expected = {"X.landmarks.png"} | {f"X.landmarks.{SUFFIXES[one]}.dcm" for one in wanted}
    assert set(room.outputs()) == expected
    listed = {one["name"]: one["sha256"] for one in room.result()["outputs"]}
    assert set(listed) == expected
    for name in expected - {"X.landmarks.png"}:
        assert pydicom.dcmread(room.drop / name).PatientID == "PID-424242"
        assert not any(secret in json.dumps(room.result()).encode() for secret in SECRETS)


def test_no_registration_no_registration_object_and_the_reason(command, room):
    room.configure("spatial_registration = true")
    room.put()
    assert command("process", room.drop).returncode == 0
    assert set(room.outputs()) == {"X.landmarks.png"}
    assert room.result()["output_notes"] == ["no registration object, since there is no registration"]


def test_a_reference_without_uids_has_no_registration_object_and_the_reason(command, room):
    room.configure("spatial_registration = true")
    command("reference", "add", room.planned())
    room.put()
    assert command("process", room.drop).returncode == 0
    assert room.result()["output_notes"] == [
        "no registration object, since the file of the reference image is not at hand"
    ]


def test_a_withheld_registration_has_no_number_in_any_output(command, room, with_reference):
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put(gantry="180")
    assert command("process", room.drop).returncode == 0
    assert set(room.outputs()) == {"X.landmarks.png", "X.landmarks.sr.dcm", "X.landmarks.pr.dcm"}
    assert b"registration withheld: the reference is of another gantry angle" in room.outputs()["X.landmarks.sr.dcm"]
    assert b"shift from the reference" not in b"".join(room.outputs().values())


def test_outputs_by_hand_bear_the_time_at_which_the_file_was_last_changed(command, room):
    room.configure("structured_report = true")
    os.utime(room.put(), (1_700_000_000, 1_700_000_000))
    assert command("process", room.drop).returncode == 0
    first = room.outputs()
    assert pydicom.dcmread(room.drop / "X.landmarks.sr.dcm").ContentDate == "20231114"
    (room.drop / "X.landmarks.sr.dcm").unlink()
    assert command("process", room.drop).returncode == 0
    assert room.outputs() == first


# --- in the daemon ---


def test_the_daemon_registers_and_a_replay_after_a_crash_gives_the_same_bytes(daemon, room, with_reference):
    """A crash before the commit leaves outputs without a JSON, and the journal, which says how far it came."""
    room.configure(*(f"{one} = true" for one in DICOM))
    room.put("X.dcm", (2.0, -4.0))
    done = daemon()
    assert done.returncode == 0, done.stderr
    first, told = room.outputs(), room.result()
    assert len(first) == 1 + len(DICOM)
    assert told["registration"]["status"] == "ok"
    (room.drop / "X.landmarks.json").unlink()
    with closing(sqlite3.connect(room.root / "state" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE files SET state = 'inferred'")
    assert daemon().returncode == 0
    assert room.outputs() == first
    assert room.result() | {"timing_ms": None} == told | {"timing_ms": None}


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
    told = {name: room.result(name)["registration"] for name in ("with", "without", "gantry", "wrong")}
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
