import re

import pytest

from edge.config import PageConfig
from edge.service.page_doors import doors_of

TOKEN = "0123456789abcdef0123456789abcdef"
VIEWS = ["/", "/now/fragment", "/trends", "/trends.csv", "/engines", "/image/40/overlay.png", "/image/40/result.json"]
OTHERS = ["/healthz", "/nowhere", "/static/page.css", "/static/none.css", "/image/99999/overlay.png", "/?before=x"]


@pytest.mark.parametrize("address", [*VIEWS, *OTHERS])
def test_every_answer_carries_the_headers_of_a_page_that_runs_nothing_foreign(page, address):
    headers = page.get(address).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("address", ["/", "/trends", "/engines", "/nowhere", "/?before=40"])
def test_no_page_has_a_script_or_a_style_of_its_own(page, address):
    text = page.get(address).text
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text)


@pytest.mark.parametrize("address", ["/", "/trends", "/engines", "/nowhere"])
def test_every_page_says_what_it_is_not(page, address):
    assert "Decision support for research; not a medical device." in page.get(address).text


@pytest.mark.parametrize(
    ("address", "method", "headers", "status"),
    [
        ("/", "POST", {}, 405),
        ("/" + "a" * 3000, "GET", {}, 414),
        ("/", "GET", {"Host": "evil.example"}, 421),
        ("/", "GET", {}, 401),
    ],
    ids=["only read", "too long", "another name", "no token"],
)
def test_a_refusal_says_what_the_page_is_not_too(guarded, address, method, headers, status):
    answer = guarded.get(address, method, **headers)
    assert answer.status == status
    assert "Decision support for research; not a medical device." in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"])
def test_the_page_is_only_read(page, method):
    answer = page.get("/", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("address", ["/", "/trends", "/image/40/overlay.png", "/events"])
def test_head_is_answered_as_get_is(page, address):
    assert page.get(address, "HEAD").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "", "10.0.0.1"]
)
def test_a_name_that_is_not_ours_is_answered_with_nothing(page, host):
    answer = page.get("/", Host=host)
    assert answer.status == 421
    assert "portal_" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8765", "127.0.0.1:9", "[::1]:8765", "[::1]", "localhost."])
def test_loopback_is_known_by_all_its_names(page, host):
    assert page.get("/healthz", Host=host).status == 200


def test_an_address_beyond_all_reason_is_not_looked_at(page):
    assert page.get("/" + "a" * 3000).status == 414
    assert page.get("/?before=" + "1" * 3000).status == 414


# --- token


@pytest.fixture
def guarded(room, open_page, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    room.page = PageConfig(token_file=file)
    room.fill(3)
    return open_page(room)


@pytest.mark.parametrize(
    "address", ["/", "/events", "/healthz", "/static/page.css", "/image/3/result.json", "/trends.csv"]
)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"landmarknet-edge={TOKEN}"},
        {"Cookie": "landmarknet-edge="},
        {"Cookie": '=;"\\'},
    ],
    ids=["nothing", "another token", "another kind", "the token as cookie", "an empty cookie", "no cookie at all"],
)
def test_nobody_looks_without_the_token(guarded, address, given):
    answer = guarded.get(address, **given)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "portal_" not in answer.text


def test_a_program_gives_the_token_with_each_request(guarded):
    assert guarded.get("/", Authorization=f"Bearer {TOKEN}").status == 200


def test_a_person_gives_the_token_once_and_it_leaves_the_address(guarded):
    first = guarded.get(f"/trends?days=7&token={TOKEN}")
    assert (first.status, first.headers["location"]) == (303, "/trends?days=7")
    cookie = first.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert guarded.get("/trends?days=7", Cookie=cookie.split(";")[0]).status == 200


@pytest.mark.parametrize("other", ['prefs={"a":1}', "a=b c", "=x", "odd", 'q="', "a[0]=1"])
def test_an_odd_cookie_of_another_page_locks_nobody_out(guarded, other):
    """Cookies are of a host, whatever its port: other pages on this machine have theirs sent here, too."""
    cookie = guarded.get(f"/?token={TOKEN}").headers["set-cookie"].split(";")[0]
    assert guarded.get("/", Cookie=f"{other}; {cookie}").status == 200
    assert guarded.get("/", Cookie=f"{cookie}; {other}").status == 200


def test_a_wrong_token_in_the_address_is_refused_even_with_the_cookie(guarded):
    cookie = guarded.get(f"/?token={TOKEN}").headers["set-cookie"].split(";")[0]
    assert guarded.get("/?token=wrong", Cookie=cookie).status == 401


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "///evil.example", "/%2f%2fevil.example"])
def test_the_way_back_from_the_token_leads_to_no_other_host(guarded, path):
    location = guarded.get(f"{path}?token={TOKEN}").headers["location"]
    assert re.match(r"/(?![/\\])", location)


def test_over_tls_the_cookie_is_for_this_host_alone(room, open_page, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    paths = {"certificate": tmp_path / "c", "key": tmp_path / "k"}
    config = PageConfig(token_file=file, **paths)
    cookie = open_page(room, doors=doors_of(config)).get(f"/?token={TOKEN}").headers["set-cookie"]
    assert cookie.startswith("__Host-landmarknet-edge=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
