"""The view of one image in a real browser, served by a real process over results that were really made."""

import base64
import io
import json
import re
from contextlib import ExitStack, contextmanager

import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.page.browser import DESK, WALL, free_port, overflow, page_of, serious_violations, visiting, walk
from tests.page.image_room import HOSTILE

READY = "#viewer:not([data-state=loading])"
SMALL = {"width": 800, "height": 600}


@pytest.fixture(scope="module")
def address(chromium, image_room):
    """Return where a process of its own serves the page of the room."""
    with page_of(image_room.config_file(), free_port()) as address:
        yield address


@pytest.fixture
def look(chromium, address, image_room):
    """Return a function that opens the view of an image: see `tests.page.browser.visiting`."""
    with ExitStack() as held:

        def opened(name, size=DESK, theme="dark"):
            page = held.enter_context(visiting(chromium, size, theme))
            page.goto(f"{address}image/{image_room.orders[name]}")
            if page.locator("#viewer").count():
                page.wait_for_selector(READY)
            return page

        yield opened


def data(page, name):
    return page.locator("#viewer").get_attribute(f"data-{name}")


def picture(page):
    """Return the canvas as it is seen, once what was asked for is drawn."""
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    address = page.evaluate("() => document.getElementById('canvas').toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def another_zoom(page, than):
    page.wait_for_selector(f"#viewer:not([data-zoom='{than}'])")


def focus_canvas(page):
    page.locator("#canvas").focus()


def middle(page):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@contextmanager
def changes(page):
    """Demand that the picture is another one afterwards."""
    before = picture(page)
    yield
    assert picture(page) != before


# --- every sort of image ---


@pytest.mark.parametrize("name", ["withheld.dcm", "no_landmarks.png"])
def test_an_image_is_shown_from_its_own_pixels(look, name):
    page = look(name)
    assert (data(page, "state"), data(page, "source")) == ("ready", "pixels")


@pytest.mark.parametrize("name", ["gone.dcm", "changed.dcm"])
def test_where_the_original_is_not_shown_a_sentence_says_why(look, name):
    page = look(name)
    assert (data(page, "state"), data(page, "source")) == ("ready", "overlay")
    said = page.locator("#remark").inner_text()
    assert re.search("not there any more|no longer the image of this result", said)
    assert said.endswith("Shown is the overlay that was published, with its marks drawn in.")
    assert page.locator("input[value=landmarks]").is_disabled()
    assert page.locator("#level").is_disabled()
    focus_canvas(page)
    with changes(page):
        page.keyboard.press("+")


@pytest.mark.parametrize("name", ["refused.dcm", "next_version.dcm", "waiting.dcm"])
def test_an_image_without_a_picture_has_no_viewer(look, name):
    page = look(name)
    assert page.locator("#canvas").count() == 0
    assert page.locator("#state").is_visible()


@pytest.mark.parametrize("name", [HOSTILE, "hostile_words.dcm"])
def test_no_hostile_word_is_run(look, name):
    page = look(name)
    assert data(page, "source") == "pixels"
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("main img, main script").count() == 0


# --- layers ---


def test_a_layer_is_switched_by_its_key_and_back(look):
    page = look("registered.dcm")
    focus_canvas(page)
    before = picture(page)
    for key, layer in (("i", "image"), ("l", "landmarks"), ("u", "uncertainty"), ("r", "reference"), ("s", "shift")):
        page.keyboard.press(key)
        assert not page.locator(f"input[value={layer}]").is_checked()
        assert picture(page) != before, layer
        page.keyboard.press(key)
        assert picture(page) == before, layer


def test_a_layer_is_switched_by_its_box_with_the_keyboard(look):
    page = look("registered.dcm")
    with changes(page):
        page.locator("input[value=landmarks]").focus()
        page.keyboard.press("Space")
    assert "landmarks" not in data(page, "layers").split()


def test_heatmaps_are_computed_when_they_are_asked_for(look):
    page = look("registered.dcm")
    assert not page.locator("input[value=heatmaps]").is_checked()
    focus_canvas(page)
    with changes(page):
        page.keyboard.press("h")
        page.wait_for_selector("#viewer[data-layers~=heatmaps]", timeout=60_000)
    assert page.locator("#remark").inner_text() == ""


def test_heatmaps_lie_over_their_landmarks(look):
    """With the image off, what is brightest of the cross's colour lies about the bifurcation, (238.8, 144.8) px."""
    page = look("registered.dcm")
    for layer in ("landmarks", "uncertainty", "reference", "shift", "image"):
        page.locator(f"input[value={layer}]").uncheck()
    page.locator("input[value=heatmaps]").check()
    page.wait_for_selector("#viewer[data-layers~=heatmaps]", timeout=60_000)
    red, _, blue = np.moveaxis(np.asarray(picture(page)).astype(int), 2, 0)
    row, column = np.unravel_index(np.argmax(blue - 2 * red), red.shape)
    scale, (height, width) = float(data(page, "zoom")), red.shape
    x, y = (column - (width - 512 * scale) / 2) / scale, (row - (height - 384 * scale) / 2) / scale
    assert abs(x - 238.8) < 6  # px; a network px is 1.9 of them
    assert abs(y - 144.8) < 6


def test_a_heatmap_has_the_colour_of_its_kind_whatever_the_order(look):
    """Only the heatmap of the second of the release's kinds is bright, and it comes first: all has its colour."""
    page = look("registered.dcm")
    kinds = json.loads(data(page, "scene"))["kinds"]
    second = kinds[1]
    stacked = np.zeros((2 * 384, 512), np.uint8)
    stacked[:384] = 255
    buffer = io.BytesIO()
    Image.fromarray(stacked).save(buffer, "PNG")
    headers = {"X-Kinds": json.dumps([second["kind"], kinds[0]["kind"]]), "Content-Type": "image/png"}
    page.route("**/heatmaps.png", lambda route: route.fulfill(body=buffer.getvalue(), headers=headers))
    for layer in ("landmarks", "uncertainty", "reference", "shift", "image"):
        page.locator(f"input[value={layer}]").uncheck()
    page.locator("input[value=heatmaps]").check()
    page.wait_for_selector("#viewer[data-layers~=heatmaps]", timeout=60_000)
    shown = np.asarray(picture(page)).astype(float)
    colour = np.array([int(second["colour"][at : at + 2], 16) for at in (1, 3, 5)])
    middle = shown[shown.shape[0] // 2, shown.shape[1] // 2]
    assert middle == pytest.approx(colour, abs=3)  # 255 is opaque


def test_what_a_result_lacks_cannot_be_switched_on(look):
    page = look("withheld.dcm")
    assert page.locator("input[value=shift]").is_disabled()
    assert page.locator("input[value=reference]").is_enabled()
    focus_canvas(page)
    before = picture(page)
    page.keyboard.press("s")
    assert picture(page) == before


# --- window ---


def test_a_drag_changes_window_and_pixels(look):
    page = look("found.dcm")
    low, high = float(data(page, "low")), float(data(page, "high"))
    with changes(page):
        x, y = middle(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=3)
        page.mouse.up()
    wider = float(data(page, "high")) - float(data(page, "low"))
    assert wider == pytest.approx((high - low) * 1.271, rel=0.01)  # exp(60 / 250)
    assert page.locator("#width").input_value() == f"{wider:.0f}"


def test_a_drag_downwards_is_brighter(look):
    page = look("found.dcm")
    before = np.asarray(picture(page)).mean()
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 60)
    page.mouse.up()
    assert np.asarray(picture(page)).mean() > before


def test_the_window_is_set_by_keys_and_automatic_again(look):
    page = look("found.dcm")
    focus_canvas(page)
    first = picture(page)
    for key, back in (("w", "a"), ("n", "a"), ("b", "a"), ("d", "a"), ("v", "v")):
        page.keyboard.press(key)
        assert picture(page) != first, key
        page.keyboard.press(back)
        assert picture(page) == first, key


def test_the_window_is_set_by_numbers(look):
    page = look("found.dcm")
    with changes(page):
        page.locator("#level").fill("30000")
        page.locator("#width").fill("5000")
    assert (float(data(page, "low")), float(data(page, "high"))) == pytest.approx((-32500, -27500))  # more dose is more


def test_level_and_width_are_values_of_the_file(look, image_room):
    """The sample stores less for more dose: its pixels as dose are negative, its own values are not."""
    page = look("found.dcm")
    level, width = (float(page.locator(f"#{name}").input_value()) for name in ("level", "width"))
    stored = pydicom.dcmread(image_room.drop / "found.dcm").pixel_array[96:288, 128:384]
    low, high = np.percentile(stored, (0.5, 99.5))  # the first window is that of the middle
    assert (level, width) == pytest.approx(((low + high) / 2, high - low), abs=2)


def test_a_width_that_is_none_changes_nothing(look):
    page = look("found.dcm")
    before = data(page, "low"), data(page, "high")
    for text in ("", "-1", "0", "1e400"):
        page.locator("#width").fill(text)
        assert (data(page, "low"), data(page, "high")) == before, text
        page.locator("#level").focus()
        assert page.locator("#width").input_value() != text


def test_the_full_range_is_a_button(look):
    page = look("found.dcm")
    with changes(page):
        page.get_by_role("button", name="Full range").click()
    assert (float(data(page, "low")), float(data(page, "high"))) == pytest.approx((-64000, -200), abs=1)


# --- zoom ---


def test_the_wheel_zooms_at_the_pointer(look):
    page = look("found.dcm")
    before = data(page, "zoom")
    page.mouse.move(*middle(page))
    with changes(page):
        page.mouse.wheel(0, -100)
        another_zoom(page, before)
    assert float(data(page, "zoom")) == pytest.approx(float(before) * 1.25)


def test_the_keyboard_zooms(look):
    page = look("found.dcm")
    focus_canvas(page)
    for key, factor in (("+", 1.25), ("=", 1.25), ("-", 1 / 1.25)):
        before = float(data(page, "zoom"))
        with changes(page):
            page.keyboard.press(key)
        assert float(data(page, "zoom")) == pytest.approx(before * factor), key


def test_one_to_one_and_fit(look):
    page = look("found.dcm")
    fitted = picture(page)
    page.get_by_role("button", name="1:1").click()
    assert page.locator("#zoom").inner_text() == "100 %"
    page.get_by_role("button", name="Fit").click()
    assert picture(page) == fitted
    focus_canvas(page)
    page.keyboard.press("1")
    assert float(data(page, "zoom")) == pytest.approx(1)
    page.keyboard.press("0")
    assert picture(page) == fitted


def test_the_keyboard_moves_the_picture(look):
    page = look("found.dcm")
    focus_canvas(page)
    first = picture(page)
    for there, back in (("ArrowLeft", "ArrowRight"), ("ArrowUp", "ArrowDown")):
        with changes(page):
            page.keyboard.press(there)
        page.keyboard.press(back)
        assert picture(page) == first


def test_a_drag_with_shift_moves_and_leaves_the_window(look):
    page = look("found.dcm")
    before = data(page, "low"), data(page, "high")
    x, y = middle(page)
    with changes(page):
        page.keyboard.down("Shift")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 20)
        page.mouse.up()
        page.keyboard.up("Shift")
    assert (data(page, "low"), data(page, "high")) == before


def test_the_picture_never_leaves_the_stage(look):
    page = look("found.dcm")
    focus_canvas(page)
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    assert np.asarray(picture(page)).max() > 200


def test_the_place_under_the_pointer_is_told(look):
    page = look("found.dcm")
    page.mouse.move(*middle(page))
    told = page.locator("#readout").text_content()
    assert re.fullmatch(r"x 25[56], y 19[12] px · [+−]\d\.\d, [+−]\d\.\d mm · value \d+", told), told


# --- for everybody ---


@pytest.mark.parametrize(
    ("name", "theme", "size"),
    [
        ("registered.dcm", "dark", DESK),
        ("registered.dcm", "light", WALL),
        ("withheld.dcm", "light", DESK),
        ("withheld.dcm", "dark", WALL),
        ("gone.dcm", "light", DESK),
        ("refused.dcm", "dark", DESK),
        ("hostile_words.dcm", "dark", DESK),
    ],
)
def test_axe_finds_nothing_serious(look, name, theme, size):
    page = look(name, size, theme)
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert serious_violations(page) == []


@pytest.mark.parametrize("name", ["registered.dcm", "hostile_words.dcm", HOSTILE])
def test_nothing_runs_out_of_the_page_sideways(look, name):
    page = look(name)
    for size in (DESK, WALL, SMALL):
        page.set_viewport_size(size)
        assert overflow(page) <= 0, size


def test_everything_is_reached_by_the_keyboard_and_shows_it(look):
    reached = walk(look("registered.dcm"))
    assert {"canvas", "level", "width"} <= set(reached)
    assert sum(name.startswith("INPUT") for name in reached) == 6  # layers
    for button in ("Auto", "Full range", "Invert", "−", "+", "Fit", "1:1"):
        assert f"BUTTON {button}" in reached
    assert {"SUMMARY Mouse and keys", "A registered.landmarks.json", "A registered.landmarks.png"} <= set(reached)


def test_the_canvas_fits_its_stage_when_the_window_changes(look):
    page = look("found.dcm")
    before = data(page, "zoom")
    page.set_viewport_size({"width": 1900, "height": 1200})
    another_zoom(page, before)
    assert float(data(page, "zoom")) > float(before)
