"""A real browser before a page in a process of its own. A visit fails on console errors and on what leaves this host.

Debian's Chromium, by Playwright; where either is missing the tests skip. Playwright's own loop runs in the main
thread for as long as a browser is open: modules that use it do not ask the application by `tests.page.client`, too.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESK, WALL = {"width": 1280, "height": 800}, {"width": 3840, "height": 2160}
PATIENCE_S = 60.0
EMPTY: Mapping = MappingProxyType({})
SERIOUS = {"serious", "critical"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def command(*arguments: object, log: Path) -> Iterator[subprocess.Popen]:
    """Run ``landmarknet-edge`` with some arguments for as long as the block; what it says goes to a file."""
    line = [sys.executable, "-m", "edge.cli", *map(str, arguments)]
    with log.open("ab") as out:
        process = subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_page(address: str, log: Path, context: ssl.SSLContext | None = None, headers: Mapping = EMPTY) -> None:
    """Wait until the page answers."""
    request = urllib.request.Request(f"{address}healthz", headers=dict(headers))
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{address} does not answer:\n{log.read_text()}")


@contextmanager
def page_of(config: Path, port: int) -> Iterator[str]:
    """Serve the page of a configuration in a process of its own; give its address."""
    log, address = config.with_suffix(".log"), f"http://127.0.0.1:{port}/"
    with command("page", "--config", config, "--port", port, log=log):
        await_page(address, log)
        yield address


@contextmanager
def browser() -> Iterator:
    """Open Chromium; skip where it, or Playwright, is missing."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def visiting(chromium, size=DESK, theme: str = "dark", expected: tuple[str, ...] = ()) -> Iterator:
    """Give a window; at the end nothing may have gone to the console as an error, nor to another host.

    ``expected`` are parts of messages that a test provokes.
    """
    context = chromium.new_context(viewport=size)
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    window = context.new_page()
    said, asked = [], []
    window.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    window.on("pageerror", lambda error: said.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    try:
        yield window
    finally:
        context.close()
    assert [text for text in said if not any(part in text for part in expected)] == []
    assert {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))} <= {"127.0.0.1"}


def await_true(window, expression: str, within_s: float = 20.0) -> None:
    """Wait until a page finds an expression true; Playwright's own way would need a policy that allows eval."""
    until_s = time.monotonic() + within_s
    while not window.evaluate(expression):
        assert time.monotonic() < until_s, expression
        window.wait_for_timeout(20)


def serious_violations(window) -> list[str]:
    """Return what axe-core finds serious on a page, each in a line with the first place of it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(window).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')[:300]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


def overflow(window) -> int:
    """Return by how many px a page is wider than its window."""
    return window.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def walk(window, most: int = 400) -> list[str]:
    """Press Tab until the focus has left the page; return what had it: id, or tag with text."""
    seen = []
    for _ in range(most):
        window.keyboard.press("Tab")
        here = window.evaluate(
            "(() => { const e = document.activeElement; if (!e || e === document.body) return null;"
            " const r = e.getBoundingClientRect(); const shown = r.width > 0 && r.height > 0;"
            " return [e.id || `${e.tagName} ${e.textContent.trim().slice(0, 40)}`, shown,"
            " getComputedStyle(e).outlineStyle !== 'none']; })()"
        )
        if here is None:
            return seen
        name, shown, outlined = here
        assert shown, f"{name} has the focus and is not to be seen"
        assert outlined, f"{name} does not show that it has the focus"
        seen.append(name)
    raise AssertionError(f"the focus never leaves the page: {seen[-5:]}")
