"""The view of one image through the page's application, over journals and results that were really made."""

import gzip
import json
import re
import shutil
import time
from html import unescape

import numpy as np
import pytest

from edge.config import CouchConfig, PageConfig
from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.page.app import page_app
from edge.page.pixels import Busy, Pixels
from edge.page.sources import Sources
from edge.portal_image import read_portal_image
from edge.service.installed import Service
from edge.service.page_doors import Doors
from edge.settle import State
from tests.page.client import Client
from tests.page.image_room import HOSTILE, SCRIPT, ImageRoom

LOCAL = Doors(frozenset({"127.0.0.1"}))


def client_of(room, **config):
    """Return who asks the page of a room, with other settings."""
    service = Service(None, room.config.model_copy(update=config), "landmarknet-edge.service")
    return Client(page_app(Sources(service, time.monotonic), LOCAL))


@pytest.fixture(scope="module")
def page(image_room):
    """Return a function that asks for the view of an image, or something of it."""
    client = client_of(image_room)

    def ask(name, rest="", **headers):
        return client.get(f"/image/{image_room.orders[name]}{rest}", **headers)

    return ask


@pytest.fixture
def room(tmp_path, shipped_engine):
    """Return a room that a test may change."""
    return ImageRoom(tmp_path / "room", shipped_engine)


def asked(room, name, rest="", **config):
    return client_of(room, **config).get(f"/image/{room.orders[name]}{rest}")


def words(answer):
    """Return the text of a page, without its tags."""
    assert answer.status == 200, answer.text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def scene(answer):
    """Return what the viewer is told, None: there is no viewer."""
    found = re.search(r'data-scene="([^"]*)"', answer.text)
    return json.loads(unescape(found[1])) if found else None


# --- each sort of image ---


def test_a_registered_image_tells_its_shift_and_what_undoes_it(page):
    told = words(page("registered.dcm"))
    assert "Shift known" in told
    assert "−2.6 mm ± 7.2 mm (95 %) lies 2.6 mm left" in told
    assert "To undo it the patient moves 2.6 mm right, 1.3 mm up in the image" in told
    assert "It is no couch movement." in told


def test_a_withheld_image_tells_why(page):
    told = words(page("withheld.dcm"))
    assert "Shift withheld only 1 landmark agrees with the reference, so nothing checks it" in told
    assert "gantry_untrusted GantryAngle says 0" in told
    assert "(95 %)" not in told


def test_an_image_without_a_reference_says_so(page):
    told = words(page("found.dcm"))
    assert "Landmarks found" in told
    assert "No reference belongs to this image" in told


def test_an_image_without_landmarks_is_shown_all_the_same(page):
    answer = page("no_landmarks.png")
    assert "No landmarks" in words(answer)
    assert "No millimetres PNG files carry no geometry" in words(answer)
    assert scene(answer)["addresses"]["pixels"]


def test_a_refused_image_tells_why_and_has_no_picture(page):
    answer = page("refused.dcm")
    assert "Refused refused.dcm: has 98600 bytes of pixel data" in words(answer)
    assert "A refused image is not shown." in words(answer)
    assert scene(answer) is None
    assert "viewer.js" not in answer.text


def test_a_result_of_another_version_says_which(page):
    answer = page("next_version.dcm")
    assert "Result not shown next_version.landmarks.json: its schema is 'landmarknet-edge/result/2'" in words(answer)
    assert "result.json" not in answer.text


def test_an_image_that_waits_has_no_result_yet(page):
    assert "In the queue It has no result yet." in words(page("waiting.dcm"))


def test_an_image_whose_file_is_gone_has_its_overlay(page):
    told = scene(page("gone.dcm"))
    assert told["why"] == "The image file is not there any more, or cannot be read."
    assert (told["addresses"]["pixels"], told["addresses"]["heatmaps"]) == (None, None)
    assert told["addresses"]["overlay"].endswith("/overlay.png")


def test_every_sort_of_image_carries_the_notice(page, image_room):
    for name in image_room.orders:
        assert "Decision support for research; not a medical device." in words(page(name))


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        (State.REFUSED, "is a colour image; export it", "Refused is a colour image; export it"),
        (State.INCOMPLETE, "half of it", "Incomplete half of it"),
        (State.RETRY_WAIT, "the share is away", "To be tried again the share is away"),
        (State.DONE, None, "Result gone X.landmarks.json is not there any more, or is torn."),
        (State.SEEN, None, "In the queue"),
    ],
)
def test_an_image_without_a_result_says_how_it_stands(room, state, reason, told):
    room.sample("X.dcm")
    room.known("X.dcm", state, reason=reason)
    assert told in words(asked(room, "X.dcm"))


def test_the_result_of_another_file_is_not_shown(room):
    room.found("X.dcm")
    room.rewrite("X.dcm", room.document("X.dcm") | {"image": room.document("X.dcm")["image"] | {"sha256": "0" * 64}})
    assert "it belongs to another image, or to another version of this file" in words(asked(room, "X.dcm"))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schema": "landmarknet-edge/result/1"}', b'{"a": NaN}', b"\xff"])
def test_a_result_that_is_none_is_no_mistake_of_the_page(room, data):
    room.found("X.dcm")
    room.result_file("X.dcm").write_bytes(data)
    assert re.search("Result (not shown|gone)", words(asked(room, "X.dcm")))


def test_a_result_with_an_entry_of_a_newer_version_is_shown(room):
    room.found("X.dcm")
    room.rewrite("X.dcm", room.document("X.dcm") | {"weather": "rain"})
    answer = asked(room, "X.dcm")
    assert "Landmarks found" in words(answer)
    assert asked(room, "X.dcm", "/pixels").headers["x-height"] == "384"
    for rest in ("/result.json", "/overlay.png"):
        assert f'{rest}"' in answer.text
        assert asked(room, "X.dcm", rest).status == 200
    assert asked(room, "X.dcm", "/result.json").json()["weather"] == "rain"  # as it lies there


@pytest.mark.parametrize("order", ["0", "999", "9" * 18, "9" * 19, "9" * 400])
@pytest.mark.parametrize("rest", ["", "/pixels", "/heatmaps.png"])
def test_an_image_that_is_not_there_is_404(page, image_room, order, rest):
    assert client_of(image_room).get(f"/image/{order}{rest}").status == 404


# --- the reference ---


def test_the_reference_is_drawn_while_it_is_the_one_that_was_used(page):
    assert [kind["label"] for kind in scene(page("registered.dcm"))["reference"]] == [
        "tracheal bifurcation",
        "louis angle",
    ]
    assert any(kind["line"] for kind in scene(page("withheld.dcm"))["reference"])


def test_a_reference_that_was_replaced_is_not_drawn(room):
    room.registered("X.dcm", signed=True)
    (file,) = room.references.iterdir()
    document = json.loads(file.read_text())
    document["landmarks"][0]["x_mm"] += 1
    file.write_text(json.dumps(document))
    answer = asked(room, "X.dcm")
    assert "its landmarks are not drawn: the reference was replaced since" in words(answer)
    assert scene(answer)["reference"] == []


def test_a_reference_that_is_gone_damaged_or_no_longer_configured_is_told(room):
    room.registered("X.dcm", signed=True)
    (file,) = room.references.iterdir()
    assert "names no folder of references any more" in words(asked(room, "X.dcm", references=None))
    file.write_text("{}")
    assert "its landmarks are not drawn: " in words(asked(room, "X.dcm"))
    file.unlink()
    assert "the reference is not in the store any more" in words(asked(room, "X.dcm"))


def test_the_couch_s_scale_is_named(image_room):
    couch = CouchConfig(name="room 1", lateral=1, longitudinal=1, vertical=-1)
    assert "Couch scale room 1" in words(asked(image_room, "registered.dcm", couch=couch))
    assert "Couch scale IEC 61217" in words(asked(image_room, "registered.dcm"))


# --- files ---


def test_the_json_and_the_overlay_are_linked_and_are_there(page):
    for rest in ("/result.json", "/overlay.png"):
        assert f'{rest}"' in page("registered.dcm").text
        assert page("registered.dcm", rest).status == 200


def test_the_files_of_a_name_that_is_not_utf_8_are_linked_and_are_there(room):
    """The name of its overlay has a hash, since the byte reads like four letters that another name may have."""
    room.found("caf\udce9.dcm")
    answer = asked(room, "caf\udce9.dcm")
    for rest in ("/result.json", "/overlay.png"):
        assert f'{rest}"' in answer.text
        given = asked(room, "caf\udce9.dcm", rest)
        assert given.status == 200
        assert given.headers["content-disposition"].startswith("inline; filename*=UTF-8''caf%")
    assert scene(answer)["addresses"]["overlay"]


@pytest.mark.parametrize("linked", [False, True])
def test_dicom_objects_are_linked_only_where_that_is_allowed(room, linked):
    room.found("X.dcm")
    document = room.document("X.dcm")
    document["outputs"].append({"name": "X.landmarks.sr.dcm", "sha256": "0" * 64})
    room.rewrite("X.dcm", document)
    answer = asked(room, "X.dcm", page=PageConfig(dicom_links=linked))
    assert "structured report X.landmarks.sr.dcm" in words(answer)
    assert (f'href="/image/{room.orders["X.dcm"]}/sr.dcm"' in answer.text) == linked
    assert ("DICOM objects name the patient" in words(answer)) != linked


# --- hostile words ---


@pytest.mark.parametrize("name", [HOSTILE, "hostile_words.dcm"])
def test_hostile_words_are_text(page, name):
    answer = page(name)
    assert answer.status == 200
    tags = re.findall(r"<(?:script|img)\b[^>]*>", answer.text)
    assert all("window.hacked" not in tag for tag in tags)
    assert "window.hacked" in unescape(answer.text)


def test_hostile_words_are_shown_where_they_stand(page):
    assert words(page("hostile_words.dcm")).count("window.hacked=1") > 10
    assert SCRIPT in unescape(page("hostile_words.dcm").text)


def test_a_name_that_turns_the_text_around_is_written_out(room):
    room.found("X\u202egnp.dcm")
    assert "\u202e" not in asked(room, "X\u202egnp.dcm").text


def test_nothing_of_the_page_is_inline(page):
    text = page("registered.dcm").text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text)


# --- pixels and heatmaps ---


def test_the_pixels_are_the_original_s(page, image_room):
    answer = page("found.dcm", "/pixels", accept_encoding="gzip, br")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert answer.headers["content-encoding"] == "gzip"
    pixels = read_portal_image(image_room.drop / "found.dcm").pixels
    low, high = float(answer.headers["x-low"]), float(answer.headers["x-high"])
    values = np.frombuffer(gzip.decompress(answer.body), "<u2").reshape(pixels.shape)
    assert np.abs(low + values * (high - low) / 65535 - pixels).max() < 1
    assert (answer.headers["x-height"], answer.headers["x-width"]) == ("384", "512")
    assert answer.headers["x-sign"] == "-1"  # the sample stores less for more dose


def test_who_takes_no_gzip_gets_the_same_pixels(page):
    plain = page("found.dcm", "/pixels")
    assert "content-encoding" not in plain.headers
    assert plain.body == gzip.decompress(page("found.dcm", "/pixels", accept_encoding="gzip").body)


def test_the_heatmaps_are_a_picture_that_names_its_kinds(page):
    answer = page("found.dcm", "/heatmaps.png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    kinds = [promise.kind for promise in read_contract(SHIPPED_RELEASE / "contract.json")[0].kinds]
    assert json.loads(answer.headers["x-kinds"]) == kinds
    assert [kind["kind"] for kind in scene(page("found.dcm"))["kinds"]] == kinds
    assert answer.body.startswith(b"\x89PNG")


@pytest.mark.parametrize("rest", ["/pixels", "/heatmaps.png"])
def test_what_a_browser_has_is_not_made_again(page, rest):
    tag = page("found.dcm", rest).headers["etag"]
    again = page("found.dcm", rest, if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)


@pytest.mark.parametrize("rest", ["/pixels", "/heatmaps.png"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("changed.dcm", "changed.dcm: the file is no longer the image of this result"),
        ("gone.dcm", "gone.dcm: the file is not there any more, or cannot be read just now"),
        ("refused.dcm", "refused.dcm: has no result with a picture"),
        ("waiting.dcm", "waiting.dcm: has no result with a picture"),
        ("next_version.dcm", "next_version.dcm: has no result with a picture"),
    ],
)
def test_why_there_are_no_pixels_is_said_without_an_error(page, name, reason, rest):
    answer = page(name, rest)
    assert (answer.status, answer.json()) == (200, {"reason": reason})
    assert answer.headers["cache-control"] == "no-store"


def test_where_too_many_are_shown_it_says_so_and_what_the_page_is_not(page, monkeypatch):
    def busy(self, wanted):
        raise Busy

    monkeypatch.setattr(Pixels, "ask", busy)
    answer = page("found.dcm", "/pixels")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert "Decision support for research; not a medical device." in answer.text


def test_heatmaps_of_another_release_are_not_made_up(room):
    room.found("X.dcm")
    document = room.document("X.dcm")
    document["provenance"]["model_sha256"] = "0" * 64
    room.rewrite("X.dcm", document)
    assert "another release made this result" in asked(room, "X.dcm", "/heatmaps.png").json()["reason"]


def test_the_files_are_left_as_they_are(room):
    room.registered("X.dcm", signed=True)
    before = {file: file.read_bytes() for file in room.drop.iterdir()}
    client, at = client_of(room), f"/image/{room.orders['X.dcm']}"
    for rest in ("", "/pixels", "/heatmaps.png", "/result.json", "/overlay.png"):
        assert client.get(at + rest).status == 200
    assert {file: file.read_bytes() for file in room.drop.iterdir()} == before


def test_a_drop_folder_that_went_away_is_no_mistake(room):
    room.found("X.dcm")
    shutil.rmtree(room.drop)
    assert "Result gone" in words(asked(room, "X.dcm"))
    assert asked(room, "X.dcm", "/pixels").json()["reason"]
