"""Templates to HTML: everything that is put in is text, and what is missing is an error."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from edge import __version__
from edge.page.shown_file import age
from edge.service.status import NOTICE
from edge.terminal import printable

STATIC = Path(__file__).parent / "static"


def render(template_name: str, **values: object) -> str:
    """Return a template filled with values, autoescaped; a missing one raises `jinja2.UndefinedError`, and is a bug."""
    return _environment().get_template(template_name).render(**values)


@cache
def static_address(name: str) -> str:
    """Return where a file of ``static/`` is found: with the hash of what is in it, so that it may be kept for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("edge.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.globals |= {"static": static_address, "notice": NOTICE, "version": __version__}
    found.filters |= {"printable": printable, "age": age}
    return found
