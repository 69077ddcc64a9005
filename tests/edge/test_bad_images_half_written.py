"""Files that were allocated but not fully written: the tail is still zero."""

import numpy as np
import pytest

from edge.errors import DamagedImage
from edge.pixel_checks import zero_tail_share
from edge.portal_image import read_portal_image


@pytest.fixture
def refused(dicom, write):
    """Return a function: read a DICOM file of these pixels, and return the message with which it is refused."""

    def read(pixels):
        with pytest.raises(DamagedImage) as caught:
            read_portal_image(write(dicom(pixels)))
        assert str(caught.value).startswith("RI.1.dcm: ")
        assert str(caught.value).endswith("send it again")
        return str(caught.value)

    return read


def with_zero_tail(pixels, share):
    flat = pixels.copy().ravel()
    flat[round(flat.size * (1 - share)) :] = 0
    return flat.reshape(pixels.shape)


@pytest.mark.parametrize("share", [0.02, 0.101, 0.333, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shadow", [400, 20])
def test_a_zero_tail_is_refused(refused, collimated, share, shadow):
    image = with_zero_tail(collimated(shadow=shadow), share)
    assert f"last {share:.0%}" in refused(image)


@pytest.mark.parametrize("cut", [(50, 60), (95, 128), (150, 200)])
def test_a_zero_tail_is_refused_where_the_shadow_is_zero_too(refused, collimated, cut):
    """The cut (row, column) lies inside the field: rows 30 to 160, columns 40 to 215."""
    image = np.clip(collimated(shadow=0).astype(int) - 50, 0, None).astype("<u2")
    written = cut[0] * 256 + cut[1]
    image.ravel()[written:] = 0
    assert f"last {1 - written / image.size:.0%}" in refused(image)


def honest_zeros():
    """Return name -> (H, W) image whose last rows are zero because nothing reached them."""
    y, x = np.mgrid[0:192, 0:256].astype(float)
    rng = np.random.default_rng(2)
    texture = 20000 + 3000 * np.sin(x / 9) + 2000 * np.cos(y / 7) + rng.normal(0, 100, x.shape)
    turned = np.abs((x - 128) * 0.966 + (y - 96) * 0.259) < 60
    turned &= np.abs((y - 96) * 0.966 - (x - 128) * 0.259) < 50
    slightly = (np.abs((x - 128) + (y - 96) * 0.035) < 60) & (np.abs((y - 96) - (x - 128) * 0.035) < 50)
    fade = np.clip(1 - (y - 100) / 40, 0, 1)
    soft = np.clip((60 - np.maximum(abs(x - 128), abs(y - 96))) / 6, 0, 1)
    rods = (((abs(x - 60) < 8) & (y < 170)) | ((abs(x - 190) < 8) & (y < 171))) * (y > 20)
    return {
        "soft field on clipped zeros": np.clip(texture * soft - 50, 0, None),
        "masked rectangle": texture * ((abs(x - 128) < 60) & (abs(y - 96) < 50)),
        "masked rectangle as wide as the image": texture * (abs(y - 96) < 50),
        "masked circle": texture * ((x - 128) ** 2 + (y - 96) ** 2 < 70**2),
        "masked rectangle turned by 15 deg": texture * turned,
        "masked rectangle turned by 2 deg": texture * slightly,
        "masked rectangle turned by -2 deg": texture * slightly[:, ::-1],
        "lower jaw only, soft": texture * fade,
        "scatter that fades slowly": texture * (y < 60) + np.floor(np.clip((150 - y) / 12, 0, None)),
        "dark noise that rarely counts": texture * (y < 60) + (rng.random(x.shape) < 0.2) * (y < 150),
        "two rods of different length": texture * rods,
        "a dead last row": texture * (y < 191),
    }


@pytest.mark.parametrize("name", honest_zeros())
def test_zeros_that_nothing_reached_are_no_unwritten_tail(name, dicom, write):
    pixels = honest_zeros()[name].astype("<u2")
    assert not pixels[-1].any()
    assert zero_tail_share(pixels) == 0
    assert read_portal_image(write(dicom(pixels))).identity.rows == 192


@pytest.mark.parametrize("name", sorted(set(honest_zeros()) - {"two rods of different length"}))
def test_the_same_images_are_refused_when_their_tail_was_not_written(name):
    """Cut in the middle of a row inside the field: the zero share follows from the cut."""
    pixels = honest_zeros()[name].astype("<u2")
    cut = (50 if name in {"scatter that fades slowly", "dark noise that rarely counts"} else 96) * 256 + 128
    pixels.ravel()[cut:] = 0
    assert zero_tail_share(pixels) == pytest.approx(1 - cut / pixels.size)
