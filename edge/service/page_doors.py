"""Who may look at the page and where: address, certificate, the names that a browser may ask for, and a token."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edge.config import PageConfig
from edge.errors import BadConfig

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
BACKLOG = 64  # connections that the kernel holds
PAGE_NAME = "landmarknet-edge"  # what each answer says, so that `check` knows whom it asked
TOKEN_FEWEST = 24  # characters: nobody guesses as many
TOKEN_MOST_BYTES = 4096
MAKE_ONE = "make one: (umask 077; openssl rand -hex 24 > FILE), readable by the service's user alone"


@dataclass(frozen=True)
class Doors:
    """``hosts``: names, in lower case and without a port, that requests may be for. ``token`` None: nobody is asked."""

    hosts: frozenset[str]
    token: str | None = None
    tls: bool = False

    @property
    def cookie_name(self) -> str:
        """Its name: a browser takes the second one only from us alone, and only over TLS (RFC 6265bis 4.1.3)."""
        return "__Host-landmarknet-edge" if self.tls else "landmarknet-edge"

    @property
    def cookie(self) -> str:
        """What the browser keeps: shows that the token was known, and does not tell it."""
        return hmac.digest((self.token or "").encode(), b"landmarknet-edge page", "sha256").hex()

    def knows(self, given: str) -> bool:
        """Tell whether this is the token; takes the same time for any that is not."""
        return self.token is not None and _same(given, self.token)

    def let_in(self, cookie: str) -> bool:
        """Tell whether this is the cookie that was given with the token."""
        return self.token is None or _same(cookie, self.cookie)


def doors_of(config: PageConfig) -> Doors:
    """Return who may look; raise `BadConfig` for a token that is none."""
    address = ipaddress.ip_address(config.bind).compressed  # as browsers write it
    names = (name.lower().rstrip(".") for name in config.names)
    hosts = {*LOOPBACK_NAMES, f"[{address}]" if ":" in address else address, *names}
    token = None if config.token_file is None else read_token(config.token_file)
    return Doors(frozenset(hosts), token, config.certificate is not None)


def read_token(file: Path) -> str:
    """Return the token of a file; raise `BadConfig` where others may read it, or anybody could guess it."""
    try:
        mode = file.stat().st_mode
        text = file.read_bytes()[:TOKEN_MOST_BYTES].decode("ascii").strip()
    except OSError as exc:
        raise BadConfig(f"{file}: the page's token cannot be read ({exc.strerror}); {MAKE_ONE}") from exc
    except ValueError as exc:
        raise BadConfig(f"{file}: the page's token has letters that no address can hold; {MAKE_ONE}") from exc
    if mode & stat.S_IRWXO:
        raise BadConfig(f"{file}: anybody on this machine may read the page's token; chmod 600 {file}")
    if len(text) < TOKEN_FEWEST or not text.isprintable() or " " in text:
        raise BadConfig(f"{file}: holds no token of at least {TOKEN_FEWEST} characters in one word; {MAKE_ONE}")
    return text


def address_of(config: PageConfig, port: int | None = None) -> str:
    """Return where a browser finds the page."""
    host = f"[{config.bind}]" if ":" in config.bind else config.bind
    return f"{'http' if config.certificate is None else 'https'}://{host}:{port or config.port}/"


def bound(config: PageConfig) -> socket.socket:
    """Return a socket that listens where the page is wanted; raise `BadConfig`."""
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.bind, config.port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise BadConfig(
            f"page: {config.bind} port {config.port} cannot be served ({exc.strerror}); set another page.port"
        ) from exc
    return listener


def demand_certificate(config: PageConfig) -> None:
    """Raise `BadConfig` where certificate and key cannot be used together."""
    if config.certificate is None:
        return
    import ssl

    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as exc:  # SSLError is an OSError; both are meant
        raise BadConfig(
            f"{config.certificate}: cannot be used with {config.key} ({exc.strerror or exc}); name a certificate with "
            "its chain and its own key, both PEM, that the service's user may read"
        ) from exc


def _same(one: str, other: str) -> bool:
    # hashed: compare_digest tells by its time how long the two are, and takes ASCII only
    digests = (sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)
