import numpy as np
import pytest

from landmarknet.ct import TissueCurve, read_ct, sample_curve, tissue_densities
from landmarknet.pose import Pose
from landmarknet.projection import Projector

SIZE, MM = 160, 1.0


def centroid(image):
    rows, columns = np.indices(image.shape)
    return np.array(((columns * image).sum(), (rows * image).sum())) / image.sum()


@pytest.mark.parametrize("pose", [
    Pose((0.0, 0.0, 0.0), 0.0),
    Pose((0.0, 0.0, 0.0), 90.0),
    Pose((10.0, 5.0, -8.0), 0.0),
    Pose((10.0, 5.0, -8.0), 97.0, tilt_deg=4.0),
    Pose((0.0, 0.0, 0.0), -8.0, tilt_deg=-5.0),
])  # fmt: skip
def test_a_ball_appears_where_its_label_is_projected(ball_ct, pose):
    projection = Projector(ball_ct).project(pose, SIZE, MM)
    (label,) = projection.points_px["tracheal_bifurcation"]
    # a cone beam draws a ball of 10 mm radius as an ellipse whose centroid is shifted by about 0.01 px
    assert centroid(projection.paths_mm.sum(axis=0)) == pytest.approx(label, abs=0.15)


def test_labels_obey_similar_triangles_and_the_frame(ball_ct):
    # the ball lies at LPS (30, -20, 15): 30 mm to the patient's left, 20 mm in front of, 15 mm above the isocentre
    projector = Projector(ball_ct)
    middle = (SIZE - 1) / 2
    ap = projector.project(Pose((0.0, 0.0, 0.0), 0.0), SIZE, MM).points_px["tracheal_bifurcation"][0]
    # gantry 0: the source is in front, so what lies 20 mm in front is magnified by 1000 / 980; +x is the patient's left
    assert ap == pytest.approx((middle + 30 * 1000 / 980, middle - 15 * 1000 / 980), abs=1e-6)
    lateral = projector.project(Pose((0.0, 0.0, 0.0), 90.0), SIZE, MM).points_px["tracheal_bifurcation"][0]
    # gantry 90: the source is at the patient's left; seen from there what is in front lies to the left (-x)
    assert lateral == pytest.approx((middle - 20 * 1000 / 970, middle - 15 * 1000 / 970), abs=1e-6)


def test_path_through_the_middle_of_the_ball_is_its_diameter(ball_ct):
    projection = Projector(ball_ct).project(Pose((30.0, -20.0, 15.0), 0.0), SIZE, MM)
    soft, bone = tissue_densities(np.array((1000,)))
    middle = projection.paths_mm[:, 79:81, 79:81].mean(axis=(1, 2))
    # 20 mm of diameter, drawn with voxels of 2 mm: within one voxel
    assert middle == pytest.approx(20.0 * np.array((soft[0], bone[0])), abs=2.2 * float(soft[0]))


def test_tissues_add_up_to_the_ct_number():
    hu = np.array((-1000, -500, 0, 150, 700, 2000))
    soft, bone = tissue_densities(hu)
    assert soft + bone == pytest.approx((hu + 1000) / 1000, abs=1e-6)
    assert (bone[:4] == 0).all()
    assert (bone[4:] > 0).all()


def test_a_curve_leaves_air_and_water_and_moves_lung_and_bone():
    hu = np.array((-1024, -1000, -750, 0, 1000), np.int16)
    soft, bone = tissue_densities(hu, TissueCurve(lung_exponent=0.87, bone_starts_hu=250.0, bone_slope=0.75))
    assert soft[[0, 1, 3]].tolist() == [0.0, 0.0, 1.0]
    assert soft[2] == pytest.approx(0.25**0.87, abs=1e-6)
    assert bone[4] == pytest.approx(0.75 * 0.75, abs=1e-6)
    assert soft[4] == pytest.approx(1.25, abs=1e-6)


def test_noise_is_as_large_as_it_says_and_seeded():
    hu, noisy = np.full((40, 40, 40), 50, np.int16), TissueCurve(noise_hu=30.0)
    first, again = (tissue_densities(hu, noisy, np.random.default_rng(1))[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert first.std() == pytest.approx(0.030, rel=0.05)
    with pytest.raises(ValueError, match="generator"):
        tissue_densities(hu, noisy)


def test_curves_that_are_drawn_differ():
    rng = np.random.default_rng(0)
    drawn = [sample_curve(rng) for _ in range(50)]
    assert len({one.bone_slope for one in drawn}) == 50
    assert 10 < sum(one.noise_hu > 0 for one in drawn) < 40


def test_a_projection_follows_its_curve(ball_ct):
    pose = Pose((30.0, -20.0, 15.0), 0.0)
    plain, thin = Projector(ball_ct), Projector(ball_ct, TissueCurve(bone_slope=0.5))
    bone = [projector.project(pose, SIZE, MM).paths_mm[1] for projector in (plain, thin)]
    assert bone[1] == pytest.approx(bone[0] / 2, abs=1e-4)


def test_labels_of_a_real_ct_lie_in_bone_and_airway(shared_ct):
    ct = read_ct(shared_ct / "lidc0002.nii.gz")
    tips = ct.points_mm["spinous_process"]
    assert (np.diff(tips[:, 2]) < 0).all(), "from the top down"
    index = np.round((tips - ct.origin_mm) / ct.spacing_mm).astype(int)
    highest = [ct.hu[i - 4 : i + 5, j - 4 : j + 5, k - 3 : k + 4].max() for i, j, k in index]
    assert min(highest) > 150, "every tip has bone within 4 mm"
    carina = np.round((ct.points_mm["tracheal_bifurcation"][0] - ct.origin_mm) / ct.spacing_mm).astype(int)
    i, j, k = carina
    assert ct.hu[i - 8 : i + 9, j - 8 : j + 9, k - 4 : k + 9].min() < -800, "there is air at the carina"


def test_a_volume_of_another_orientation_is_refused(tmp_path):
    import nibabel as nib

    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
    with pytest.raises(ValueError, match="L, P and S"):
        read_ct(path)
