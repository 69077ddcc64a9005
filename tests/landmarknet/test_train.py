import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from landmarknet.checkpoint import demand_same_training, load_checkpoint, load_network
from landmarknet.network import NetworkConfig
from landmarknet.train import (
    LOG_HEADER,
    TrainConfig,
    drop_rows,
    fill_cache,
    learning_rate,
    read_train_config,
    train,
)
from landmarknet.training_curves import running_mean, training_curves

# narrower ones crash torch 2.13 in the bfloat16 backward of a convolution with 8 channels
TINY = NetworkConfig(bottom_up="resnet18", width=0.25, head_width=0.125, input_size=96)


@pytest.fixture
def config(tmp_path, ball_ct):
    folder = tmp_path / "ct"
    folder.mkdir()
    affine = np.diag((*(ball_ct.spacing_mm * (-1, -1, 1)), 1.0))
    affine[:3, 3] = ball_ct.origin_mm * (-1, -1, 1)
    nib.save(nib.Nifti1Image(ball_ct.hu, affine), folder / "lidc_ball.nii.gz")
    carina = {"name": "carina", "world_lps": ball_ct.points_mm["tracheal_bifurcation"][0].tolist()}
    (folder / "lidc_ball.landmarks.json").write_text(f'{{"landmarks": [{carina}]}}'.replace("'", '"'))
    return TrainConfig(
        ct_folder=str(folder),
        cache_folder=str(tmp_path / "cache"),
        output=str(tmp_path / "run"),
        patients=("lidc_ball",),
        negatives=(),
        network=TINY,
        steps=4,
        batch=2,
        processes=1,
        poses=1,
        save_every=2,
    )


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("architecture", ["landmarknet", "dsnt", "deeplabv3", "prm"])
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(config, tmp_path, architecture):
    config = replace(config, network=replace(TINY, architecture=architecture))
    whole = load_checkpoint(train(config))

    stopped = replace(config, output=str(tmp_path / "stopped"))

    def cut_after_two_steps(step):
        if step == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(stopped, after_save=cut_after_two_steps)
    assert load_checkpoint(tmp_path / "stopped" / "last.pt").step == 2
    resumed = load_checkpoint(train(stopped))

    assert resumed.step == whole.step == 4
    for name, tensor in whole.averaged.items():
        assert torch.equal(tensor, resumed.averaged[name]), name


def test_training_leaves_weights_alone_and_a_log(config, tmp_path):
    weights = train(config)
    checkpoint = load_checkpoint(weights)
    assert checkpoint.raw == checkpoint.optimizer == {}
    assert str(tmp_path).encode() not in weights.read_bytes(), "a shipped file names no folder of the machine"
    assert tuple(checkpoint.training["patients"]) == ("lidc_ball",)
    assert not load_network(weights).training
    assert logged_steps(tmp_path / "run" / "losses.csv") == [0, 1, 2, 3]


def logged_steps(path):
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_no_step_is_logged_twice(config, tmp_path):
    run = tmp_path / "run"

    def cut_before_the_second_save(step):
        if step == 2:
            shutil.copy(run / "last.pt", run / "first.pt")
        if step == 4:
            shutil.move(run / "first.pt", run / "last.pt")
            raise PowerCut

    with pytest.raises(PowerCut):
        train(config, after_save=cut_before_the_second_save)
    assert logged_steps(run / "losses.csv") == [0, 1, 2, 3]
    assert load_checkpoint(run / "last.pt").step == 2
    train(config)
    assert logged_steps(run / "losses.csv") == [0, 1, 2, 3]


def test_a_row_that_a_power_cut_left_half_written_is_dropped(tmp_path):
    log = tmp_path / "losses.csv"
    log.write_text(",".join(LOG_HEADER) + "\n0,1e-3,3.0,0.2,0.1,4.0\n1,1e-3,2.9,0.2,0.1,5.0\n2,1e-3,2.")
    drop_rows(log, 9)
    assert logged_steps(log) == [0, 1]
    drop_rows(log, 1)
    assert log.read_text().splitlines() == [",".join(LOG_HEADER), "0,1e-3,3.0,0.2,0.1,4.0"]


def test_a_gradient_beyond_the_clip_norm_moves_no_weight_further(config, tmp_path):
    # one step of plain descent is the gradient itself; AdamW's first step has the size of its sign instead
    tight = load_checkpoint(train(replace(config, output=str(tmp_path / "tight"), clip_norm=1e-6, steps=1)))
    loose = load_checkpoint(train(replace(config, output=str(tmp_path / "loose"), clip_norm=1e6, steps=1)))
    assert tight.training["clip_norm"] == 1e-6
    moved = [not torch.equal(tight.averaged[name], loose.averaged[name]) for name in tight.averaged]
    assert any(moved)


def test_curves_are_drawn_with_every_checkpoint(config, tmp_path):
    curves, drawn = tmp_path / "run" / "curves.png", []
    train(config, after_save=lambda _step: drawn.append(curves.read_bytes()))
    assert len(drawn) == 2
    assert all(image.startswith(b"\x89PNG") for image in drawn)
    assert drawn[0] != drawn[1]
    training_curves(tmp_path / "run" / "losses.csv", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == drawn[1] == curves.read_bytes()


def test_a_running_mean_looks_back_only():
    assert running_mean(np.array((4.0, 2.0, 6.0, 1.0)), 2).tolist() == [4.0, 3.0, 4.0, 3.5]


def test_two_processes_share_a_batch_and_train_without_a_warning(config, capfd):
    checkpoint = load_checkpoint(train(replace(config, processes=2, steps=2, save_every=2)))
    assert checkpoint.step == 2
    assert all(torch.isfinite(t).all() for t in checkpoint.averaged.values())
    assert "Warning" not in capfd.readouterr().err  # once: grad strides do not match bucket view strides


def test_the_cache_is_the_same_whatever_number_of_processes_filled_it(config, tmp_path):
    for suffix in (".nii.gz", ".landmarks.json"):
        shutil.copy(tmp_path / "ct" / f"lidc_ball{suffix}", tmp_path / "ct" / f"sts_ball{suffix}")
    alone = replace(config, negatives=("sts_ball",), negative_poses=1)
    fill_cache(alone)
    fill_cache(replace(alone, processes=2, cache_folder=str(tmp_path / "shared")))
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(files) == 4, "two patients, two views"
    assert files == sorted(path.name for path in (tmp_path / "shared").iterdir())
    for name in files:
        with np.load(tmp_path / "cache" / name) as one, np.load(tmp_path / "shared" / name) as two:
            assert all(np.array_equal(one[key], two[key]) for key in one.files)


def test_a_full_cache_is_left_alone(config, tmp_path):
    fill_cache(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    (tmp_path / "ct" / "lidc_ball.nii.gz").unlink()  # it is not read again
    fill_cache(config)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gate", {"network": replace(TINY, gate=False)}),
        ("levels", {"level_share": 0.0}),
        ("mining", {"hard_share": 0.5}),
    ],
)
def test_an_ablation_trains_and_pays_for_nothing_it_lacks(config, tmp_path, name, changes):
    train(replace(config, steps=2, **changes))
    with (tmp_path / "run" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    paid = {term: max(float(row[term]) for row in rows) > 0 for term in ("heatmaps", "levels", "presence")}
    assert paid == {"heatmaps": True, "levels": name != "levels", "presence": name != "gate"}


def test_the_plain_head_trains_the_same_weights(config):
    plain = load_checkpoint(train(replace(config, head="plain", steps=1)))
    fast = load_checkpoint(train(replace(config, output=config.output + "-fast", steps=1)))
    for name, tensor in fast.averaged.items():  # bfloat16 arithmetic in another order
        assert torch.allclose(plain.averaged[name].float(), tensor.float(), rtol=0.05, atol=5e-3), name


def test_processes_of_a_killed_training_end_with_it(config, tmp_path):
    # two that were left behind once trained on beside the next run, both writing last.pt
    endless = replace(config, processes=2, steps=10_000, save_every=10_000)
    (tmp_path / "config.json").write_text(json.dumps(endless.to_dict()))
    script = """
import json, sys
from landmarknet.network import NetworkConfig
from landmarknet.train import TrainConfig, train
data = json.load(open(sys.argv[1]))
if __name__ == "__main__":
    train(TrainConfig(**{**data, "network": NetworkConfig.from_dict(data["network"])}))
"""
    (tmp_path / "run.py").write_text(script)
    command = [sys.executable, tmp_path / "run.py", tmp_path / "config.json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    training = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        await_((tmp_path / "run" / "losses.csv").exists)
        workers = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
        training.kill()
        training.wait()
        await_(lambda: not any(is_running(pid) for pid in workers))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
        training.wait()
    assert len(workers) >= 2


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def await_(condition, patience_s=300):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_learning_rate_rises_and_falls_to_zero(config):
    longer = replace(config, steps=1000, warm_up_steps=100)
    rates = [learning_rate(step, longer) for step in range(1001)]
    assert rates[99] == max(rates) == longer.peak_rate
    assert rates[0] == pytest.approx(longer.peak_rate / 100)
    assert rates[1000] == pytest.approx(0.0)


def test_learning_rate_rises_again_to_finish_and_ends_at_zero(config):
    longer = replace(config, steps=1000, warm_up_steps=100, finish_steps=500, finish_rate=1e-4)
    rates = [learning_rate(step, longer) for step in range(1501)]
    assert rates[:1000] == [learning_rate(step, replace(longer, finish_steps=0)) for step in range(1000)]
    assert max(rates[1000:]) == rates[1099] == 1e-4
    assert rates[1500] == pytest.approx(0.0)


def test_a_training_stopped_before_its_jaws_close_goes_on_as_in_one_go(config, tmp_path):
    config = replace(config, steps=2, finish_steps=2)
    whole = load_checkpoint(train(config))
    stopped = replace(config, output=str(tmp_path / "stopped"))

    def cut_before_jaws(step):
        if step == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(stopped, cut_before_jaws)
    resumed = load_checkpoint(train(stopped))
    assert resumed.step == whole.step == 4
    assert all(torch.equal(w, whole.averaged[name]) for name, w in resumed.averaged.items())


def test_shipped_configuration_is_understood_and_holds_two_patients_out():
    config = read_train_config(Path(__file__).parents[2] / "landmarknet/configs/room_cpu.toml")
    assert not {"lidc0002", "lidc0295"} & {*config.patients, *config.negatives}
    assert config.network.bottom_up == "resnet18"


def test_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('ct_folder="a"\ncache_folder="b"\noutput="c"\npatients=[]\nnegatives=[]\nstep=3\n')
    with pytest.raises(ValueError, match="step"):
        read_train_config(path)


@pytest.mark.parametrize("change", [{"patients": ("another",)}, {"seed": 1}, {"network": replace(TINY, gate=False)}])
def test_another_configuration_does_not_go_on_with_a_checkpoint(config, change):
    train(config)
    with pytest.raises(ValueError, match=r"last\.pt comes from another configuration \((patients|seed|network)\)"):
        train(replace(config, **change))


def test_the_same_configuration_may_run_in_other_folders_and_processes(config, tmp_path):
    path = train(config)
    moved = replace(config, cache_folder=str(tmp_path / "elsewhere"), processes=2, save_every=1)
    demand_same_training(load_checkpoint(path), moved.to_dict(), path)
