"""Whatever is asked of the page, it answers below 500: path tricks, wild queries, headers and methods."""

import string
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.page.app import page_app
from edge.page.sources import Sources
from edge.service.page_doors import doors_of
from tests.page.client import Client
from tests.page.made_room import NOW, MadeRoom

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
