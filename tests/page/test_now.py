import json
import shutil
from datetime import timedelta
from types import SimpleNamespace

import pytest

from edge.page.shown_file import axes_of, rotation_of
from edge.results.publish import result_path
from edge.service.status import gather
from edge.settle import State
from tests.page.made_room import NOW, overlay_bytes

SCRIPT = "<script>alert(1)</script>"


def of(room, order, name, state, when=NOW, **more):
    return room.entry(order, room.drop / name, state, when, **more)


def registration(**changes):
    entry = {"shift_mm": {"x": 2.64, "y": -1.26}, "interval95_mm": {"x": 1.2, "y": 0.9}, "rotation_deg": -1.25}
    return entry | changes


def test_a_shift_is_shown_with_its_sign_its_direction_and_its_interval():
    x, y = axes_of(registration())
    assert (x.name, x.figure, x.direction, x.interval) == ("x", "+2.6", "right", "1.2")
    assert (y.name, y.figure, y.direction, y.interval) == ("y", "−1.3", "down", "0.9")


@pytest.mark.parametrize("value", [0.0, -0.04, 0.04])
def test_what_rounds_to_nothing_has_no_direction_and_no_minus(value):
    x, _ = axes_of(registration(shift_mm={"x": value, "y": 1.0}, interval95_mm=None))
    assert (x.figure, x.direction, x.interval) == ("+0.0", "no shift", None)


@pytest.mark.parametrize(
    ("turn_deg", "words"),
    [(-1.25, "−1.2°, clockwise"), (0.5, "+0.5°, counter-clockwise"), (0.01, "+0.0°"), (None, None)],
)
def test_a_rotation_is_shown_with_its_way(turn_deg, words):
    assert rotation_of(registration(rotation_deg=turn_deg)) == words


def test_an_empty_room_says_that_nothing_came_yet(room, open_page):
    room.record()
    text = open_page(room).get("/").text
    assert "No image yet" in text
    assert "No image was seen yet." in text


def test_a_room_without_a_journal_says_so_as_an_alarm(room, open_page):
    answer = open_page(room).get("/")
    assert answer.status == 200
    assert "there is no journal" in answer.text


def test_the_image_that_finished_last_stands_large(page):
    text = page.get("/").text
    latest = text[text.index('id="latest"') : text.index('id="parts"')]
    assert "portal_00040.dcm" in latest
    assert "shift known" in latest


def test_what_is_in_hand_is_listed_above_but_does_not_stand_large(room, open_page):
    room.fill(3)
    room.record(of(room, 4, "new.dcm", State.CLAIMED), of(room, 5, "newer.dcm", State.SEEN, NOW + timedelta(seconds=1)))
    text = open_page(room).get("/").text
    latest, listed = text[text.index('id="latest"') :].split('id="recent"', 1)
    assert "portal_00003.dcm" in latest
    assert listed.index("newer.dcm") < listed.index("new.dcm") < listed.index("portal_00003.dcm")
    assert "arriving" in listed
    assert "being looked at" in listed


def test_however_many_wait_the_image_that_finished_last_stands_large(room, open_page):
    room.fill(3)
    room.record(*(of(room, order, f"new{order}.dcm", State.SEEN) for order in range(4, 60)))
    client = open_page(room)
    text = client.get("/").text
    assert "portal_00003.dcm" in text[text.index('id="latest"') : text.index('id="parts"')]
    assert "The newest result carries no warning" in client.get("/engines").text


def test_without_a_result_nothing_is_said_of_its_warnings(room, open_page):
    room.record(of(room, 1, "new.dcm", State.SEEN))
    text = open_page(room).get("/engines").text
    assert "There is no result just now" in text
    assert "carries no warning" not in text


def test_a_refusal_stands_with_its_reason(room, open_page):
    room.fill(7)  # the seventh is refused
    text = open_page(room).get("/").text
    latest = text[text.index('id="latest"') : text.index('id="parts"')]
    assert 'class="state bad">refused' in latest
    assert "several frames in one file; send each by itself" in latest


def test_a_withheld_shift_is_told_from_a_known_one_without_a_figure(room, open_page):
    room.fill(3)
    text = open_page(room).get("/").text
    latest = text[text.index('id="latest"') : text.index('id="parts"')]
    assert 'class="state warn">shift withheld' in latest
    assert "shift-figure" not in latest


def test_a_result_that_is_gone_is_told(room, open_page):
    room.fill(2)
    result_path(room.drop / "portal_00002.dcm", None).unlink()
    assert "Its result is gone, or is not ours." in open_page(room).get("/").text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda result: result["image"].update(name="another.dcm"),
        lambda result: result["image"].update(sha256="f" * 64),
        lambda result: result.update(schema="somebody/else"),
        lambda result: result["registration"]["shift_mm"].update(x=float("nan")),
        lambda result: result["registration"]["shift_mm"].update(x="1e999"),
        lambda result: result.update(landmarks="many"),
        lambda result: result.clear(),
    ],
    ids=["of another name", "of other bytes", "of another program", "NaN", "a text", "no list", "empty"],
)
def test_what_is_not_this_image_s_result_is_not_shown(room, open_page, spoil):
    room.fill(2)
    path = result_path(room.drop / "portal_00002.dcm", None)
    result = json.loads(path.read_text())
    spoil(result)
    path.write_text(json.dumps(result))
    client = open_page(room)
    assert "Its result is gone, or is not ours." in client.get("/").text
    assert client.get("/image/2/overlay.png").status == 404
    assert client.get("/image/2/result.json").status == 404


def test_a_new_result_is_taken_up_where_the_old_one_was_read(room, open_page):
    room.fill(1)
    client = open_page(room)
    assert "shift known" in client.get("/").text
    result_path(room.drop / "portal_00001.dcm", None).unlink()
    assert "shift known" not in client.get("/").text


def test_names_and_reasons_are_text_whatever_stands_in_them(room, open_page):
    hostile = [
        SCRIPT.replace("/", "∕") + ".dcm",
        '"><img src=x onerror=alert(1)>.dcm',
        "\u202egpj.dcm",
        "{{ 7 * 7 }}.dcm",
    ]
    entries = [
        of(room, order, name, State.REFUSED, reason=f"{name}: {SCRIPT}", kind="DamagedImage")
        for order, name in enumerate(hostile, 1)
    ]
    room.record(*entries)
    text = open_page(room).get("/").text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "\\u202egpj.dcm" in text
    assert "{{ 7 * 7 }}" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_name_that_is_not_utf_8_is_shown_as_its_bytes(room, open_page):
    room.record(of(room, 1, "caf\udce9.dcm", State.REFUSED, reason="caf\\xe9.dcm: x"))
    assert "caf\\xe9.dcm" in open_page(room).get("/").text


def test_the_list_goes_on_from_page_to_page_without_losing_or_repeating_one(room, open_page):
    import re

    room.fill(120)
    client, address, found = open_page(room), "/", []
    for _ in range(3):
        text = client.get(address).text
        found += map(int, re.findall(r'id="file-(\d+)"', text))
        older = re.search(r'href="(/\?before=\d+)"', text)
        address = older[1] if older else None
    assert found == list(range(120, 0, -1))
    assert address is None


@pytest.mark.parametrize("before", ["x", "-1", "1.5", "", "1e3", "9" * 19, "٣", "1;drop"])
def test_a_place_in_the_list_that_is_none_is_not_found(page, before):
    assert page.get(f"/?before={before}").status == 404


def test_a_place_that_nobody_knows_shows_no_images(page):
    answer = page.get("/?before=999999999999999999")
    assert answer.status == 200
    assert "There are no older images." in answer.text


def test_the_fragment_is_what_the_page_holds(page):
    fragment = page.get("/now/fragment")
    assert "<html" not in fragment.text
    assert 'id="latest"' in fragment.text
    assert fragment.headers["x-as-of"] == NOW.isoformat(timespec="seconds")


def test_an_old_status_is_shown_with_its_time_and_ages_are_those_of_now(room, open_page):
    room.fill(1)  # finished a minute before NOW
    now = NOW + timedelta(hours=3)
    client = open_page(room, now=lambda: now, ask=lambda service, _: gather(service, NOW))
    answer = client.get("/")
    assert answer.headers["x-as-of"] == NOW.isoformat(timespec="seconds")
    assert answer.headers["x-now"] == now.isoformat(timespec="seconds")
    assert "3 h 01 min ago" in answer.text
    assert "1 min ago" not in answer.text.replace("3 h 01 min ago", "")


def test_what_a_browser_has_is_not_sent_again_while_only_time_goes_on(room, open_page):
    room.fill(40)
    clock = SimpleNamespace(now=NOW)
    client = open_page(room, now=lambda: clock.now, ask=lambda service, _: gather(service, clock.now))
    first = client.get("/now/fragment")
    clock.now += timedelta(seconds=1.5)
    again = client.get("/now/fragment", If_None_Match=first.headers["etag"])
    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert again.headers["x-now"] != first.headers["x-now"]


def test_pages_are_compressed_for_who_asks(page):
    answer = page.get("/", Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.body) < len(page.get("/").body) / 3


# --- files


def test_the_overlay_is_the_one_that_the_result_names(page):
    answer = page.get("/image/40/overlay.png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body == overlay_bytes()


def test_the_json_is_served_byte_for_byte(page, room):
    path = result_path(room.drop / "portal_00040.dcm", None)
    answer = page.get("/image/40/result.json")
    assert (answer.body, answer.headers["content-type"]) == (path.read_bytes(), "application/json")


def test_an_overlay_that_is_another_file_by_now_is_not_served(page, room):
    overlay = room.drop / "portal_00040.landmarks.png"
    overlay.write_bytes(overlay_bytes(8, 8))
    assert page.get("/image/40/overlay.png").status == 404


def test_no_link_is_followed(page, room, tmp_path):
    overlay, secret = room.drop / "portal_00040.landmarks.png", tmp_path / "secret"
    secret.write_bytes(overlay.read_bytes())
    overlay.unlink()
    overlay.symlink_to(secret)
    assert page.get("/image/40/overlay.png").status == 404


def test_no_folder_that_is_a_link_leads_out_of_the_drop_folder(room, open_page, tmp_path):
    import random

    outside = tmp_path / "outside"
    outside.mkdir()
    image = room.drop / "sub" / "portal_00001.dcm"
    (room.drop / "sub").mkdir()
    entry = room.made(1, 1, NOW, random.Random(1), overlay_bytes())
    for file in room.drop.glob("portal_00001.*"):
        file.rename(outside / file.name)
    shutil.rmtree(room.drop / "sub")
    (room.drop / "sub").symlink_to(outside)
    room.record(room.entry(1, image, State.DONE, NOW, entry.sha256))
    client = open_page(room)
    assert client.get("/").status == 200
    assert client.get("/image/1/overlay.png").status == 404
    assert client.get("/image/1/result.json").status == 404


@pytest.mark.parametrize("kind", ["sr", "pr", "reg", "xx"])
def test_dicom_outputs_are_not_served_unless_the_configuration_links_to_them(page, kind):
    assert page.get(f"/image/40/{kind}.dcm").status == 404


def test_style_and_scripts_are_kept_for_ever_under_the_name_of_their_content(page):
    from edge.page.render import static_address

    named, plain = page.get(static_address("page.css")), page.get("/static/page.css")
    assert "immutable" in named.headers["cache-control"]
    assert plain.headers["cache-control"] == "no-cache"
    assert page.get("/static/page.css?v=000000000000").headers["cache-control"] == "no-cache"
    assert named.headers["content-type"] == "text/css; charset=utf-8"
