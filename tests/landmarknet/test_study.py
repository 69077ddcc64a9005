from pathlib import Path

import pytest

from landmarknet.study import read_study

STUDY = Path("landmarknet/configs/study.toml")


def written(tmp_path, old, new):
    path = tmp_path / "study.toml"
    path.write_text(STUDY.read_text().replace(old, new))
    return path


def test_every_patient_is_tested_once_and_never_by_a_network_that_knows_it():
    study = read_study(STUDY)
    assert len(study.patients) == len(set(study.patients)) == 11
    for fold in study.folds:
        trained = set(study.fold_config(fold).patients)
        assert len(trained) >= 6
        assert not trained & {*fold.test, *fold.validation}


def test_the_shipped_recipe_leaves_its_validation_and_one_test_patient_out():
    study = read_study(STUDY)
    held_out = set(study.patients) - set(study.recipe().patients)
    assert held_out == {"lidc0002", "lidc0295"}
    assert held_out & set(study.validation) == {"lidc0295"}, "no variant was chosen on the release's test patient"


def test_some_volumes_without_landmarks_are_neither_trained_nor_tuned_on():
    study = read_study(STUDY)
    assert study.test_negatives
    assert not set(study.test_negatives) & {*study.recipe().negatives, *study.validation_negatives}


def test_a_fold_that_tunes_on_its_test_patients_is_refused(tmp_path):
    path = written(tmp_path, 'validation = ["lidc0001"]', 'validation = ["lidc0314"]')
    with pytest.raises(ValueError, match="fold a makes its choices on patients that it tests on"):
        read_study(path)


def test_a_patient_in_two_folds_is_refused(tmp_path):
    path = written(tmp_path, '"lidc0306"]', '"lidc0306", "lidc0001"]')
    with pytest.raises(ValueError, match="tested on in two folds"):
        read_study(path)


def test_a_validation_patient_must_be_tested_in_another_fold(tmp_path):
    path = written(tmp_path, 'validation = ["lidc0002"]', 'validation = ["nobody"]')
    with pytest.raises(ValueError, match="validates on"):
        read_study(path)


@pytest.mark.parametrize(("old", "new"), [("\nfold_steps", "\nfolds_steps"), ("[comparison]", "[compared]")])
def test_a_wrong_entry_is_named(tmp_path, old, new):
    with pytest.raises(ValueError, match=r"study\.toml: not a study"):
        read_study(written(tmp_path, old, new))
