"""A study small enough to be trained, evaluated and compared here: what is tested is the way, not the network."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from edge.portal_image import read_portal_image
from landmarknet.checkpoint import load_checkpoint, save_checkpoint
from landmarknet.closed_jaw import close_jaw
from landmarknet.compare import comparison_row
from landmarknet.evaluate import read_truths
from landmarknet.figures import box_plot, pck_plot, reliability_plot, sigma_plot
from landmarknet.folds import (
    accept_all,
    accepted_findings,
    evaluate_fold,
    evaluate_known_patient,
    operating_point_toml,
    unseen_findings,
)
from landmarknet.network import KINDS
from landmarknet.simulate_files import empty_field_files, simulate_files
from landmarknet.study import read_study
from landmarknet.train import train

PATIENTS = ("lidc_a", "lidc_b", "lidc_c", "lidc_d")
NEGATIVE = "sts_none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder):
    """Two folds of two patients who are balls of bone, trained for one step."""
    for place, name in enumerate((*PATIENTS, NEGATIVE)):
        write_ball(folder / "ct", name, np.array((10.0 * place, -20.0, 15.0)))
        simulate_files(folder / "ct" / f"{name}.nii.gz", folder / "images" / name, poses=1, seed=0)
    empty_field_files(folder / "images" / "empty_field", 1, seed=0)
    study = read_study(written(folder))
    for fold in study.folds:
        train(study.fold_config(fold))
    return study


def write_ball(ct, name, centre_mm):
    ct.mkdir(exist_ok=True)
    spacing, origin, shape = np.array((4.0, 4.0, 5.0)), np.array((-80.0, -90.0, -100.0)), (40, 45, 40)
    axes = [origin[i] + np.arange(shape[i]) * spacing[i] for i in range(3)]
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(np.meshgrid(*axes, indexing="ij"), centre_mm, strict=True)))
    affine = np.diag((*(spacing * (-1, -1, 1)), 1.0))
    affine[:3, 3] = origin * (-1, -1, 1)
    nib.save(nib.Nifti1Image(np.where(distance <= 12.0, 1000, -1000).astype(np.int16), affine), ct / f"{name}.nii.gz")
    if name != NEGATIVE:
        labels = f'{{"landmarks": [{{"name": "carina", "world_lps": {centre_mm.tolist()}}}]}}'
        (ct / f"{name}.landmarks.json").write_text(labels)


def written(folder):
    recipe, network = folder / "recipe.toml", {"bottom_up": "resnet18", "width": 0.25, "head_width": 0.125}
    recipe.write_text(
        toml(
            ct_folder=str(folder / "ct"), cache_folder=str(folder / "cache"), output=str(folder / "room"),
            patients=PATIENTS, negatives=[], steps=1, batch=2, processes=1, poses=1,
        )
        + "[network]\n" + toml(**network, input_size=96, mm_per_net_px=3.0)
    )  # fmt: skip
    (folder / "study.toml").write_text(
        toml(
            train=str(recipe), images=str(folder / "images"), output=str(folder / "work"), validation=[],
            validation_negatives=[], test_negatives=[NEGATIVE], fold_steps=1,
        )
        + "[[folds]]\n" + toml(name="a", test=PATIENTS[:2], validation=PATIENTS[2:3])
        + "[[folds]]\n" + toml(name="b", test=PATIENTS[2:], validation=PATIENTS[:1])
        + "[one_patient]\n" + toml(patient="lidc_a", steps=1)
        + "[comparison]\n" + toml(fold="a", steps=1, seeds=[0], variants=["landmarknet"])
    )  # fmt: skip
    return folder / "study.toml"


def toml(**entries):
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


@pytest.fixture(scope="module")
def unseen(study):
    return [unseen_findings(study, fold) for fold in study.folds]


@pytest.fixture(scope="module")
def result(study, unseen):
    return evaluate_fold(study, study.folds[0], unseen)


def test_a_fold_is_judged_on_every_image_of_its_test_patients_once(study, result):
    images = {path.name for path in read_truths(Path(study.images), study.folds[0].test)}
    judged = [f.image for f in result.test if f.kind == "tracheal_bifurcation"]
    assert sorted(judged) == sorted(images)
    assert {f.patient for f in result.known} == {*result.trained_on} == {"lidc_d"}
    assert {f.patient for f in result.negatives} == {NEGATIVE, "empty_field"}
    assert len(result.other_renderer["as scanned"]) == len(result.other_renderer["noise of 80 HU"])
    assert {f.patient for f in result.changed["gamma 2"]} <= {*study.folds[0].test}


def test_under_a_jaw_nothing_is_shown_and_all_of_it_is_labelled(result):
    assert result.under_jaws
    assert all(f.labelled and not len(f.truth_px) for f in result.under_jaws)
    assert {f.kind for f in result.under_jaws} == {"tracheal_bifurcation"}


def test_a_network_that_saw_a_test_patient_is_refused(study, unseen):
    fold = study.folds[0]
    weights = Path(study.fold_config(fold).output) / "weights.pt"
    checkpoint = load_checkpoint(weights)
    training = {**checkpoint.training, "patients": ["lidc_a"]}
    save_checkpoint(weights, replace(checkpoint, training=training))
    try:
        with pytest.raises(ValueError, match="another configuration \\(patients\\)"):
            evaluate_fold(study, fold, unseen)
    finally:
        save_checkpoint(weights, checkpoint)


def test_thresholds_of_a_release_come_with_every_kind(study):
    weights = Path(study.fold_config(study.folds[0]).output) / "weights.pt"
    text = operating_point_toml(weights, ["lidc_c"], study)
    assert text.count("[[kinds]]") == len(KINDS)
    with pytest.raises(ValueError, match="trained on lidc_d"):
        operating_point_toml(weights, ["lidc_d"], study)


def test_a_variant_that_is_not_trained_has_no_row_and_the_folds_own_has_one(study):
    assert comparison_row(study, "landmarknet") is None
    row = comparison_row(study, "fold")
    assert all(len(row.pck[kind]) == 2 for kind in KINDS)
    assert all(0 <= value <= 1 for kind in KINDS for value in row.pck[kind])


def test_what_a_network_finds_in_the_one_patient_it_knows_is_of_that_patient_alone(study):
    assert evaluate_known_patient(study) is None, "not trained"
    train(study.one_patient_config())
    known = evaluate_known_patient(study)
    assert {one.patient for one in known.found} == {"lidc_a"}
    longer = replace(study, one_patient=replace(study.one_patient, steps=2))
    with pytest.raises(ValueError, match="steps"):
        evaluate_known_patient(longer)


def test_figures_are_drawn_from_what_was_found(result, tmp_path):
    findings, kinds = accepted_findings([result]), accept_all(result.reading.kinds)
    box_plot(findings, kinds, tmp_path / "deviation.png")
    pck_plot(findings, kinds, tmp_path / "pck.png")
    reliability_plot([*result.test, *result.negatives], kinds, tmp_path / "reliability.png")
    sigma_plot([(result.test, result.reading.kinds)], tmp_path / "sigma.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_a_closed_jaw_darkens_the_landmark_and_20_mm_beyond_and_leaves_the_rest(study):
    path, truth = next(iter(read_truths(Path(study.images), ["lidc_a"]).items()))
    image = read_portal_image(path)
    (label,) = truth["landmarks"]
    closed, hidden = close_jaw(image, truth, "tracheal_bifurcation")
    assert hidden["landmarks"] == []
    assert hidden["hidden"] == [label]
    changed = np.abs(closed.pixels - image.pixels) > 0.1 * np.ptp(image.pixels)
    dark = closed.pixels < closed.pixels.min() + 0.02 * np.ptp(image.pixels)
    x, y = round(label["x_px"]), round(label["y_px"])
    reach = round(10 / truth["mm_per_px"])
    assert dark[y - reach : y + reach, x - reach : x + reach].all()
    assert changed.any()
    assert 0.2 < (~changed).mean() < 0.9
