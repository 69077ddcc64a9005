import pytest

from landmarknet import cli


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["landmarknet-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_a_wrong_configuration_is_one_line_and_no_traceback(run, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("stepz = 3")
    status, said = run("train", path)
    assert status == 2
    assert "train.toml: not a training configuration" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["folds", "compare", "accuracy"])
def test_a_missing_study_is_named(run, tmp_path, command):
    status, said = run(command, tmp_path / "none.toml")
    assert status == 2
    assert "none.toml: not a study" in said


def test_what_is_no_ct_is_named(run, tmp_path):
    path = tmp_path / "patient.nii.gz"
    path.write_bytes(b"not a volume")
    status, said = run("simulate", path, "--output", tmp_path / "set", "--processes", 1)
    assert status == 2
    assert "patient.nii.gz: not a NIfTI volume" in said
    assert "Traceback" not in said


def test_figures_on_a_training_patient_are_refused(run, tmp_path):
    status, said = run("evaluate", "edge/release", tmp_path, "lidc0001")
    assert status == 2
    assert "trained on lidc0001" in said
