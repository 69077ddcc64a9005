"""Whatever is asked of the page, it answers below 500: path tricks, wild queries, headers and methods."""

import json
import string
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.page.app import page_app
from edge.page.sources import Sources
from edge.service.page_doors import doors_of
from edge.settle import State
from tests.page.client import Client
from tests.page.made_room import EXAMPLE, NOW, MadeRoom, overlay_bytes

PIECES = [
    "", "/", "//", "..", ".", "%2e%2e", "%2f", "%00", "%ff", "%c0%ae", "image", "1", "40", "-1", "0", "1.5", "1e9",
    "9" * 19, "9" * 300, "٣", "overlay.png", "result.json", "pixels", "heatmaps.png", "sr.dcm",
    "..%2f..%2fetc%2fpasswd", "trends", "trends.csv", "engines", "gate.png", "static", "page.css",
    "now", "fragment", "healthz", "<script>", "'",
    ";", "?", "#", "\\", "C:", "nul", "~", "$HOME", "{{7*7}}", "\udce9", "journal.sqlite",
]  # fmt: skip
NAMES = ["before", "days", "course", "token", "v", "x", ""]
VALUES = [
    "",
    "0",
    "1",
    "40",
    "-1",
    "9" * 19,
    "30",
    "400",
    "x",
    "%00",
    "%ff",
    "a" * 200,
    "' OR 1=1--",
    "../..",
    "[]",
    "٣",
]
TRICKS = [
    "/../../etc/passwd", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/render.py", "/static//etc/passwd",
    "/image/../journal.sqlite", "/image/1/../../x", "/image/1%00/overlay.png", "/image/0x1/overlay.png",
    "/image/" + "9" * 40 + "/overlay.png", "/image/" + "9" * 1900 + "/result.json", "/engines/../gate.png",
    "/engines/..%2f..%2fx/gate.png", "/engines/%00/gate.png", "/engines/a%2fb/gate.png", "/%", "/%zz", "/\x00", "/;/",
    "/static/", "/static", "/image/", "/image/1", "/image/1/", "/image/2/pixels", "/image/1/heatmaps.png", "/.env",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    room = MadeRoom(tmp_path_factory.mktemp("room"))
    room.fill(12)
    sources = Sources(room.service, lambda: 0.0, lambda: NOW)
    yield Client(page_app(sources, doors_of(room.page)))
    sources.close()


@pytest.mark.parametrize("address", TRICKS)
def test_no_trick_of_an_address_leads_anywhere(client, address):
    answer = client.get(address)
    assert answer.status in {200, 404, 405, 409, 410, 414, 307}
    assert b"root:" not in answer.body
    assert b"import annotations" not in answer.body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(PIECES) | st.text(max_size=8).map(lambda text: quote(text, errors="surrogatepass")), max_size=5
    ),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=12)), max_size=3),
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "X"]),
)
def test_no_address_is_a_mistake_of_the_page(client, pieces, query, method):
    asked = "&".join(f"{name}={value}" for name, value in query)
    address = "/" + "/".join(pieces).split("?")[0] + (f"?{asked}" if asked else "")
    assert client.get(address, method).status < 500


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["Host", "Cookie", "Authorization", "If_None_Match", "Accept_Encoding", "Accept", "Range"]),
        st.text(string.printable.strip() + " äÿ", max_size=40),
    ),
    st.sampled_from(["/", "/trends", "/image/1/overlay.png", "/static/page.css", "/nowhere"]),
)
def test_no_header_is_a_mistake_of_the_page(client, headers, address):
    assert client.get(address, **headers).status < 500


# --- results that anybody who may write to the drop folder can put there

DEEP = 900  # json reads it, and copying it needs three times as many calls
ODD = [
    float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 0, -1, 10**400, "", "\ud800", "\x00", "x" * 5000,
    None, [], {}, [1e308, 1e308], [1e-320, 1e-320], True, "DEEP", "1e999",
]  # fmt: skip
KNOWN = [
    (("landmarks", 0, "x_px"), float("nan")),
    (("landmarks", 0, "score"), float("inf")),
    (("registration", "shift_mm", "x"), float("nan")),
    (("registration", "shift_mm", "x"), 1e308),
    (("landmarks", 0, "sigma_px"), 1e308),
    (("geometry", "spacing_mm"), [1e-320, 1e-320]),
    (("geometry", "sid_mm"), 1e-320),
    (("geometry", "first_pixel_mm"), [1e308, 1e308]),
    (("landmarks", 0, "kind"), "\ud800"),
    (("outputs", 0, "name"), "\ud800"),
    (("registration", "shift_mm", "x"), "1e999"),
    (("weather",), "DEEP"),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Return a function: ask the page about a result in which one entry is another."""
    room = MadeRoom(tmp_path_factory.mktemp("odd"))
    image = room.drop / "X.dcm"
    image.write_bytes(b"there")
    document = json.loads(EXAMPLE.read_text())
    sha256 = document["image"]["sha256"]
    room.record(room.entry(1, image, State.DONE, NOW, sha256))
    file = room.publish(image, sha256, document, overlay_bytes())
    sources = Sources(room.service, lambda: 0.0, lambda: NOW)
    client = Client(page_app(sources, doors_of(room.page)))

    def ask(path, value, *rests):
        file.write_text(_changed(json.loads(json.dumps(document)), path, value))
        return [client.get(f"/image/1{rest}").status for rest in rests] + [client.get("/").status]

    ask.places = [path for path in _places(document) if path]
    yield ask
    sources.close()


def _changed(document, path, value):
    """Return a document as JSON with another value somewhere."""
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return json.dumps(document).replace('"DEEP"', '{"a":' * DEEP + "1" + "}" * DEEP)


def _places(value, path=()):
    """Yield the path of every entry."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


@pytest.mark.parametrize(("path", "value"), KNOWN, ids=str)
def test_no_entry_of_a_result_is_a_mistake_of_the_page_again(odd, path, value):
    assert max(odd(path, value, "", "/result.json", "/overlay.png")) < 500


def test_a_result_nested_too_deep_has_no_pixels(odd):
    assert odd(("weather",), "DEEP", "/pixels", "/heatmaps.png") == [200, 200, 200]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_result_is_a_mistake_of_the_page(odd, data):
    path, value = data.draw(st.sampled_from(odd.places)), data.draw(st.sampled_from(ODD))
    assert max(odd(path, value, "", "/result.json", "/overlay.png")) < 500
