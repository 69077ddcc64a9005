"""What the tests of the page share."""

import pytest

from tests.page.image_room import ImageRoom


@pytest.fixture(scope="session")
def image_room(tmp_path_factory):
    """Return a room with an image of every sort that the view of one image must show. Not to be changed."""
    return ImageRoom(tmp_path_factory.mktemp("images")).of_every_sort()
