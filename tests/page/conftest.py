"""What tests of the page share: rooms with results, and the application asked without a network."""

import time

import pytest

from edge.engines import open_engine
from edge.page.app import page_app
from edge.page.sources import Sources
from edge.service.page_doors import doors_of
from edge.service.status import gather
from tests.page.browser import browser
from tests.page.client import Client
from tests.page.image_room import ImageRoom
from tests.page.made_room import NOW, MadeRoom


@pytest.fixture(scope="module")
def chromium():
    """Return a browser, for one module: see `tests.page.browser`."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def shipped_engine():
    """Return the shipped release, opened."""
    return open_engine(None, threads=1)


@pytest.fixture(scope="session")
def image_room(tmp_path_factory, shipped_engine):
    """Return a room with an image of every sort that the view of one image must show. Not to be changed."""
    return ImageRoom(tmp_path_factory.mktemp("images"), shipped_engine).of_every_sort()


@pytest.fixture
def room(tmp_path):
    """Return an empty room."""
    return MadeRoom(tmp_path)


@pytest.fixture
def open_page():
    """Return a function: the client of a room's page; its clock stands at ``NOW`` unless another is given."""
    opened = []

    def open_for(room, now=lambda: NOW, doors=None, ask=gather):
        sources = Sources(room.service, time.monotonic, now, ask)
        opened.append(sources)
        return Client(page_app(sources, doors or doors_of(room.page)))

    yield open_for
    for sources in opened:
        sources.close()


@pytest.fixture
def page(room, open_page):
    """Return the client of a room of forty results."""
    room.fill(40)
    return open_page(room)
