"""The shipped release on the samples: a patient that it never saw, whose portal image and DRR show one position."""

import pytest

from edge.by_hand import register_files
from edge.registration.register import Rules


def test_the_lateral_sample_has_not_moved_within_what_is_said(shipped, samples):
    """A release whose landmarks are too uncertain says so; one that tells a shift covers the truth, which is none."""
    made = register_files(
        samples / "lidc0002_lateral_mv_00.dcm", samples / "lidc0002_lateral_drr_00.dcm", shipped
    ).registration
    if made.status == "withheld":
        assert "is known only to" in made.reason
    else:
        assert all(abs(mm) <= half for mm, half in zip(made.shift_mm, made.interval95_mm, strict=True))


def test_a_site_that_takes_wider_intervals_gets_a_shift_that_covers_the_truth(shipped, samples):
    made = register_files(
        samples / "lidc0002_lateral_mv_00.dcm",
        samples / "lidc0002_lateral_drr_00.dcm",
        shipped,
        Rules(widest_interval_mm=30.0),
    ).registration
    assert made.status == "ok", made.reason
    assert all(abs(mm) <= half for mm, half in zip(made.shift_mm, made.interval95_mm, strict=True))


@pytest.mark.parametrize(("image", "reference"), [("ap_mv", "lateral_drr"), ("lateral_mv", "ap_drr")])
def test_a_view_is_never_registered_with_the_other_one(shipped, samples, image, reference):
    made = register_files(
        samples / f"lidc0002_{image}_00.dcm", samples / f"lidc0002_{reference}_00.dcm", shipped
    ).registration
    assert (made.status, made.shift_mm) == ("withheld", None)


def test_an_ap_image_is_withheld_while_the_release_states_no_sigma_of_the_row(shipped, samples):
    """A release that states one may register it; then within what it says."""
    made = register_files(samples / "lidc0002_ap_mv_00.dcm", samples / "lidc0002_ap_drr_00.dcm", shipped).registration
    (row,) = (kind for kind in shipped.contract.kinds if kind.kind == "spinous_process")
    assert made.status == "withheld" or row.sigma is not None
    if made.status == "ok":
        assert all(abs(mm) <= half for mm, half in zip(made.shift_mm, made.interval95_mm, strict=True))
