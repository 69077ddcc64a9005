"""The page as a process: its socket, TLS, requests that are none, and too many who listen."""

import json
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.config import PageConfig
from edge.page.live import LISTENERS_MOST
from tests.page.browser import await_page, command, free_port, page_of
from tests.page.made_room import MadeRoom

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Return the port of a page that runs for all tests of this file."""
    room = MadeRoom(tmp_path_factory.mktemp("room"), PageConfig(port=free_port()))
    room.fill(3)
    with page_of(room.config_file(), room.page.port):
        yield room.page.port


@contextmanager
def asked(port, request, timeout=20):
    """Send bytes; give the socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as one:
        one.sendall(request)
        yield one


def status(port, request):
    """Return the status of what is answered, None where the connection is just closed."""
    with asked(port, request) as one:
        data = b""
        try:
            while b"\r\n" not in data and (piece := one.recv(4096)):
                data += piece
        except ConnectionResetError:
            return None
    return int(data.split()[1]) if data else None


HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET ../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_request_of_ours_is_refused_and_the_page_goes_on(port, request_bytes):
    found = status(port, request_bytes)
    assert found is None or 400 <= found < 500
    assert status(port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == 200


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 300_000 + b"\r\n\r\n"],
    ids=["a version to come", "a header without end"],
)
def test_what_is_odd_is_answered_or_refused_and_the_page_goes_on(port, request_bytes):
    assert (status(port, request_bytes) or 400) < 500
    assert status(port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == 200


def test_a_seventeenth_window_is_told_to_come_again(port):
    request = b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n"
    with ExitStack() as stack:
        for _ in range(LISTENERS_MOST):
            one = stack.enter_context(asked(port, request))
            data = b""
            while b"event: changed" not in data:
                data += one.recv(4096)
            assert b" 200 " in data
        assert status(port, request) == 503
        assert status(port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == 200


def certificate(folder):
    """Make a certificate for 127.0.0.1 that its own key signed; return the paths of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "page")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "page.crt", folder / "page.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


def test_over_tls_with_a_token_it_is_open_to_who_knows_it(tmp_path):
    room = MadeRoom(tmp_path, PageConfig(port=free_port()))
    room.fill(1)
    crt, key = certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = room.config_file()
    names = {"certificate": crt, "key": key, "token_file": token}
    lines = "".join(f"{name} = {json.dumps(str(path))}\n" for name, path in names.items())
    config.write_text(config.read_text().replace("[page]\n", f"[page]\n{lines}"))
    trusting = ssl.create_default_context(cafile=crt)
    address = f"https://127.0.0.1:{room.page.port}/"
    log = tmp_path / "log"
    with command("page", "--config", config, log=log):
        await_page(address, log, trusting, {"Authorization": f"Bearer {TOKEN}"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address, context=trusting, timeout=20)
        refused.value.close()
        assert refused.value.code == 401
        assert status(room.page.port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") is None  # without TLS


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('bind = "0.0.0.0"\n', "certificate, key, token_file"),
        ('token_file = "/nowhere/token"\n', "cannot be read"),
        ('certificate = "/nowhere/c"\nkey = "/nowhere/k"\n', "both PEM"),
    ],
    ids=["no TLS", "no token", "no certificate"],
)
def test_a_page_that_cannot_be_kept_to_whom_it_is_for_is_not_served(tmp_path, lines, said):
    config = tmp_path / "room.toml"
    config.write_text(f"[page]\nport = {free_port()}\n{lines}")
    log = tmp_path / "log"
    with command("page", "--config", config, log=log) as process:
        assert process.wait(60) == 78
    assert said in log.read_text()
