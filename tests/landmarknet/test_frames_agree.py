"""RTK, another implementation of IEC 61217, sees points of the room where `two_views` says they are seen."""

import math

import numpy as np
import pytest

from edge.registration.register import Registration
from edge.registration.two_views import room_shift

SAD_MM = 1000.0
pytestmark = pytest.mark.timeout(600)  # importing RTK takes 12 s of a processor: minutes where that is shared


@pytest.fixture(scope="module")
def seen_by_rtk():
    """Return a function: a point of the room (x, y, z), mm, to (x, y) of the isocentre plane at a gantry angle."""
    itk = pytest.importorskip("itk")
    from itk import RTK as rtk

    def project(point_mm, gantry_deg):
        geometry = rtk.ThreeDCircularProjectionGeometry.New()
        geometry.AddProjection(SAD_MM, 1.5 * SAD_MM, gantry_deg)
        u, v, w = itk.array_from_matrix(geometry.GetMatrix(0)) @ (*point_mm, 1.0)
        return u / w / 1.5, v / w / 1.5

    return project


def view(shift_mm, gantry_deg):
    return Registration(
        status="ok",
        reason=None,
        shift_mm=shift_mm,
        rotation_deg=None,
        interval95_mm=(1.96, 1.96),
        covariance=((1.0, 0.0), (0.0, 1.0)),
        axes="",
        n_used=8,
        residual_mm=1.0,
        runner_up=None,
        gantry_deg=gantry_deg,
        support_deg=0.0,
    )


@pytest.mark.parametrize("gantry_deg", [0.0, 37.0, 90.0, 180.0, 243.0, 270.0])
def test_a_point_seen_from_two_sides_is_found_in_the_room(seen_by_rtk, gantry_deg):
    point_mm = np.array([3.0, 4.0, -5.0])
    views = [view(seen_by_rtk(point_mm, angle), angle) for angle in (gantry_deg, (gantry_deg + 90) % 360)]
    magnified = np.linalg.norm(point_mm) ** 2 / SAD_MM  # a point off the isocentre plane is seen larger: 0.05 mm
    np.testing.assert_allclose(room_shift(*views).shift_mm, point_mm, atol=magnified)


@pytest.mark.parametrize("gantry_deg", [0.0, 90.0, 180.0, 270.0, 300.0])
def test_what_is_nearer_the_source_is_seen_larger(seen_by_rtk, gantry_deg):
    angle = math.radians(gantry_deg)
    towards_source = np.array([math.sin(angle), 0.0, math.cos(angle)])
    _, near = seen_by_rtk((0, 50, 0) + 100 * towards_source, gantry_deg)
    assert near == pytest.approx(50 * SAD_MM / (SAD_MM - 100))
