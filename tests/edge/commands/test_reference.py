"""References through the real commands: added, listed, shown, signed and removed."""

import json

import pytest

from tests.edge.planned_room import CARINA, PLANNED_UID, ROW, SECRETS, plan_bytes


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
    assert room.result()["registration"]["reference"]["signed_off"] is True
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
