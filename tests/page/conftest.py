"""What the tests of the page share."""

import pytest

from edge.engines import open_engine
from tests.page.image_room import ImageRoom


@pytest.fixture(scope="session")
def shipped_engine():
    """Return the shipped release, opened."""
    return open_engine(None, threads=1)


@pytest.fixture(scope="session")
def image_room(tmp_path_factory, shipped_engine):
    """Return a room with an image of every sort that the view of one image must show. Not to be changed."""
    return ImageRoom(tmp_path_factory.mktemp("images"), shipped_engine).of_every_sort()
