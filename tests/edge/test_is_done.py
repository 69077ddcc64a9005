import errno
import os

import pytest

from edge.errors import ImageUnreadable, ResultsNotWritable
from edge.results.publish import (
    is_done,
    result_path,
)
from tests.edge.published import document, publish_for, set_times


@pytest.fixture
def image(tmp_path):
    image = tmp_path / "X.dcm"
    image.write_bytes(b"pixels")
    return image


# the restart rule


def test_without_a_result_an_image_is_not_done(image):
    assert not is_done(image, result_path(image, None))


def test_a_result_younger_than_the_image_is_trusted_without_reading_the_image(image):
    result = publish_for(image)
    result.write_bytes(document(image, data=b"never compared"))
    set_times(result, after=image, offset_s=5)
    assert is_done(image, result)
    assert not is_done(image, result, trust_times=False)


@pytest.mark.parametrize(("content", "done"), [(b"pixels", True), (b"PIXELS", False)])
def test_an_image_younger_than_its_result_is_compared_by_content(image, content, done):
    result = publish_for(image)
    image.write_bytes(content)
    set_times(image, after=result, offset_s=5)
    assert is_done(image, result) is done


def test_an_old_file_moved_over_the_image_is_noticed(image, tmp_path):
    result = publish_for(image)
    set_times(result, after=image, offset_s=-3600)  # the result is an hour old
    other = tmp_path / "other"
    other.write_bytes(b"PIXELS")
    set_times(other, after=result, offset_s=-3600)  # and this file's time is older still
    other.rename(image)
    assert not is_done(image, result)


def test_an_image_that_vanished_cannot_be_asked(image):
    result = publish_for(image)
    image.unlink()
    with pytest.raises(ImageUnreadable, match=r"X.dcm: cannot be read .No such file"):
        is_done(image, result)


def test_a_result_that_cannot_be_read_is_not_taken_for_none(image):
    result_path(image, None).mkdir()
    with pytest.raises(ResultsNotWritable) as caught:
        is_done(image, result_path(image, None))
    assert caught.value.__cause__.errno == errno.EISDIR


def test_a_result_whose_outputs_are_gone_or_others_is_not_done_when_it_is_doubted(image):
    result = publish_for(image, {"X.landmarks.png": b"drawing"})
    drawing = image.with_name("X.landmarks.png")
    assert is_done(image, result, trust_times=False)
    drawing.write_bytes(b"another")
    assert not is_done(image, result, trust_times=False)
    drawing.unlink()
    assert not is_done(image, result, trust_times=False)
    os.mkfifo(drawing)  # must not hold us until somebody writes to it
    assert not is_done(image, result, trust_times=False)


def test_a_result_that_lists_files_of_others_proves_nothing_when_it_is_doubted(image):
    result = result_path(image, None)
    image.with_name("Y.dcm").write_bytes(b"drawing")
    result.write_bytes(document(image, {"Y.dcm": b"drawing"}))
    assert not is_done(image, result, trust_times=False)
