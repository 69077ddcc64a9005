"""Real files that are damaged, or no images; they are not part of the project."""

import pytest

from edge.errors import DamagedImage, NotAnImage
from edge.portal_image import read_portal_image


def test_real_file_damaged_by_a_text_mode_transfer_says_so(real_file):
    with pytest.raises(DamagedImage, match=r"pixel data are missing.*text-mode transfer"):
        read_portal_image(real_file("s03"))


def test_real_plan_is_left_alone_by_name(real_file):
    with pytest.raises(NotAnImage, match="RT Plan Storage"):
        read_portal_image(real_file("s04"))


@pytest.mark.parametrize("folder", ["s02", "s09", "s12", "s13"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.613])
def test_real_images_half_written_are_refused(real_file, folder, share, write):
    data = real_file(folder).read_bytes()
    with pytest.raises(DamagedImage, match="cut short"):
        read_portal_image(write(data[: -int(share * 0.9 * len(data))]))
    preallocated = data[: -int(share * 0.9 * len(data))].ljust(len(data), b"\0")
    if folder == "s02" and share == 0.3:
        return  # only background is missing: the zeros that were not written are the zeros that would have been
    with pytest.raises(DamagedImage, match="not fully written"):
        read_portal_image(write(preallocated))
