import json
import os
import select
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge.config import Config
from edge.constancy import GoldenDrift, KindDrift
from edge.engines import open_engine
from edge.errors import (
    BackendFailed,
    BadConfig,
    BadRelease,
    DamagedImage,
    DeviceLost,
    ImageUnreadable,
    InferenceFailed,
    NotAnImage,
    ReaderDied,
    WorkerDied,
)
from edge.pipeline import Pipeline, Source
from edge.processes.worker import OPEN_S, Task, Worker
from tests.edge.processes.worker_room import OPEN, await_end, children, fails, make, pid, sha256, task, untimed

# --- making ---


def test_a_worker_makes_what_the_pipeline_makes_in_one_process(worker, config, write, dicom, collimated):
    path = write(dicom(collimated()), "copy")
    pipeline = Pipeline(open_engine(config.release, 1), config.sha256())
    here = pipeline.make(Source(path, "X.dcm"))
    assert here.result.status == "ok"
    assert untimed(make(worker, path)) == untimed(here)
    assert [name for name, _ in here.outputs] == ["X.landmarks.png"]
    assert here.kind is None


def test_a_refusal_is_made_like_any_result(worker, write, dicom, collimated):
    made = make(worker, write(dicom(collimated(), SamplesPerPixel=3)))
    assert (made.result.status, made.outputs, made.kind) == ("refused", [], "UnsupportedImage")
    assert made.result.reason.startswith("X.dcm: ")


def test_a_damaged_image_is_refused_only_when_nothing_more_can_come(worker, write, dicom, collimated):
    path = write(dicom(collimated())[:-1000])
    assert make(worker, path, final=True).result.status == "refused"
    with pytest.raises(DamagedImage, match=r"^X\.dcm: .*cut short"):
        make(worker, path, final=False)


def test_what_is_no_image_is_raised(worker, write):
    with pytest.raises(NotAnImage, match=r"^X\.dcm: "):
        make(worker, write(b"hello"))


def test_a_worker_tells_the_key_of_a_result_without_making_it(worker, write, dicom, collimated):
    path = write(dicom(collimated()))
    assert worker.key(task(path)) == make(worker, path).result.provenance.key
    with pytest.raises(NotAnImage):
        worker.key(Task(write(b"hello", "notes"), "notes", sha256(b"hello"), final=True))
    with pytest.raises(ImageUnreadable, match="not what was claimed"):
        worker.key(Task(path, "X.dcm", "0" * 64, final=True))


def test_a_copy_that_is_not_what_was_claimed_is_tried_again(worker, write, dicom, collimated):
    with pytest.raises(ImageUnreadable, match="not what was claimed"):
        worker.make(Task(write(dicom(collimated())), "X.dcm", "0" * 64, final=True))


def test_whoever_must_be_patient_hears_how_long_a_wait_may_take(config, write, dicom, collimated):
    waits = []

    @contextmanager
    def waiting(within_s):
        waits.append(within_s)
        yield
        waits.append("over")

    with Worker(config, waiting=waiting) as worker:
        make(worker, write(dicom(collimated())))
    assert waits == [OPEN_S, "over", config.read_s + config.infer_s, "over"]


def test_errors_do_not_cost_a_process(worker, write, dicom, collimated):
    starts = worker.starts
    with pytest.raises(NotAnImage):
        make(worker, write(b"hello", "other"))
    assert make(worker, write(dicom(collimated()))).result.status == "ok"
    assert worker.starts == starts == 1


def test_a_file_that_kills_its_reader_is_named_and_the_worker_lives(config, write, dicom, collimated):
    with Worker(config.model_copy(update={"read_memory_mb": 300})) as worker:
        with pytest.raises(ReaderDied, match=r"^X\.dcm: took more than 300 MiB"):
            make(worker, write(dicom(np.ones((8192, 8192), "<u2")), "bomb"))
        assert make(worker, write(dicom(collimated()))).result.status == "ok"
        assert worker.starts == 1


def test_the_images_of_a_worker_are_read_in_another_process(worker, write, dicom, collimated):
    make(worker, write(dicom(collimated())))
    (reader,) = children(pid(worker))
    assert "edge.processes.reader_child" in Path(f"/proc/{reader}/cmdline").read_text()


def test_a_worker_says_what_it_opened(worker, config):
    engine = open_engine(config.release, 1)
    said = worker.describe()
    assert (said.release, said.warnings) == ("small-1", ())
    assert said.provenance == Pipeline(engine, config.sha256()).provenance()
    assert said.contract == engine.contract


def test_a_configuration_crosses_unchanged_though_a_folder_s_name_is_no_text(worker, config):
    assert worker.describe().provenance.config_sha256 == config.sha256()


# --- ends ---


def test_a_worker_that_died_between_two_images_is_replaced_and_no_image_blamed(config, write, dicom, collimated):
    with Worker(config) as worker:
        dead = pid(worker)
        os.kill(dead, signal.SIGKILL)
        await_end(dead)
        assert make(worker, write(dicom(collimated()))).result.status == "ok"
        assert (worker.starts, pid(worker) != dead) == (2, True)


def test_closing_ends_the_worker_and_its_reader(config):
    with Worker(config) as worker:
        (reader,) = children(pid(worker))
        process = worker._child._process
    assert process.returncode == 0
    assert not Path(f"/proc/{reader}").exists()


def test_a_worker_that_is_killed_takes_its_reader_with_it(config):
    with Worker(config) as worker:
        handle = os.pidfd_open(children(pid(worker))[0])
        try:
            os.kill(pid(worker), signal.SIGKILL)
            assert select.select([handle], [], [], 20)[0] == [handle]  # readable: it ended, within 20 s
        finally:
            os.close(handle)


def test_a_worker_that_keeps_silent_over_the_golden_images_blames_no_file(faked):
    worker = faked(f"{OPEN}time.sleep(600)", infer_s=0.2)
    with pytest.raises(DeviceLost, match=r"gave no answer within 0\.2 s"):
        worker.check_golden()


def test_a_worker_whose_reader_does_not_start_just_now_is_opened_again(faked):
    slow = "{'error': 'ImageUnreadable', 'message': 'the reader'}"
    worker = faked(f"if start == 1:\n    parent.answer({slow})\n    sys.exit()\n{OPEN}next(requests)")
    with pytest.raises(ImageUnreadable):
        worker.open()
    worker.open()
    assert worker.starts == 2


def test_a_worker_that_was_closed_serves_again(config, write, dicom, collimated):
    with Worker(config) as worker:
        worker.close()
        worker.close()
        assert make(worker, write(dicom(collimated()))).result.status == "ok"


@pytest.mark.parametrize(
    ("does", "says"),
    [("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"), ("os._exit(1)", "ended with status 1")],
)
def test_a_worker_that_dies_with_a_file_in_hand_blames_the_file(faked, does, says):
    worker = faked(f"{OPEN}next(requests); {does}")
    assert fails(worker, WorkerDied).startswith(f"X.dcm: the process that looked for its landmarks {says}")
    assert fails(worker, WorkerDied)
    assert worker.starts == 2


def test_a_worker_that_keeps_silent_is_ended(faked):
    worker = faked(f"{OPEN}time.sleep(600)", infer_s=0.2, read_s=0.1)
    assert "gave no answer within 0.3 s" in fails(worker, WorkerDied)


def test_a_worker_that_lost_its_device_is_started_anew(faked):
    lost = "{'error': 'DeviceLost', 'message': 'the GPU failed'}"
    worker = faked(f"{OPEN}r = next(requests)\nparent.answer(of(r) | {lost})\nnext(requests)")
    assert fails(worker, DeviceLost) == "the GPU failed"
    assert fails(worker, DeviceLost) == "the GPU failed"
    assert worker.starts == 2


def test_other_errors_keep_the_process(faked):
    failed = "{'error': 'InferenceFailed', 'message': 'no memory'}"
    worker = faked(f"{OPEN}for r in requests:\n    parent.answer(of(r) | {failed})")
    assert fails(worker, InferenceFailed) == fails(worker, InferenceFailed) == "no memory"
    assert worker.starts == 1


def test_a_worker_that_cannot_be_opened_again_is_a_device_lost_not_the_end(faked):
    gone = "{'error': 'BackendFailed', 'message': 'no GPU'}"
    worker = faked(f"if start > 1:\n    parent.answer({gone})\n    sys.exit()\n{OPEN}next(requests)")
    fails(worker, WorkerDied)
    assert fails(worker, DeviceLost) == "the worker cannot be started anew (no GPU); it is tried again"
    assert fails(worker, DeviceLost)  # and again, until it works


def test_the_warnings_of_the_engine_are_described(faked):
    worker = faked(f"{OPEN}next(requests)")
    worker.open()
    assert worker.describe().warnings == ("not what was meant",)


def test_a_worker_that_was_never_opened_says_so(faked):
    with pytest.raises(DeviceLost, match="open it first"):
        faked(OPEN).describe()


# --- opening ---


def test_a_release_that_is_damaged_ends_the_opening(config, tmp_path):
    for name in ("contract.json", "golden.npz"):
        (tmp_path / name).write_bytes((config.release / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BadRelease, match=r"model\.onnx.*SHA-256 differs"), Worker(Config(release=tmp_path)):
        pass


def test_too_little_memory_for_the_reader_ends_the_opening(config):
    with pytest.raises(BadConfig, match="raise it"), Worker(config.model_copy(update={"read_memory_mb": 50})):
        pass


def test_a_worker_that_dies_while_it_opens_has_no_backend_to_offer(faked):
    with pytest.raises(BackendFailed, match="the worker was killed by SIGSEGV before it was ready"):
        faked("os.kill(os.getpid(), 11)").open()


@pytest.mark.parametrize("said", ["{}", "opened | {'contract': '{}'}", "opened | {'provenance': 'no JSON'}"])
def test_a_worker_of_another_version_is_ended(faked, said):
    before = children(os.getpid())
    with pytest.raises(BackendFailed, match="restart the service"):
        faked(f"parent.answer({said}); next(requests, None)").open()
    assert children(os.getpid()) == before


# --- constancy ---


def test_an_engine_that_answers_as_ever_does_not_drift(worker):
    still = (KindDrift("spinous_process", 0.0, 0.0), KindDrift("tracheal_bifurcation", 0.0, 0.0))
    assert worker.check_golden() == GoldenDrift(still)


def test_images_are_made_after_the_golden_ones(worker, write, dicom, collimated):
    worker.check_golden()
    assert make(worker, write(dicom(collimated()))).result.status == "ok"


def test_the_golden_images_of_a_dying_worker_blame_no_file(faked):
    worker = faked(f"{OPEN}next(requests); os._exit(1)")
    with pytest.raises(DeviceLost, match="ended with status 1 over the golden images"):
        worker.check_golden()


# --- a release that changes under a service ---


@pytest.fixture
def movable(config, tmp_path):
    """Return a configuration with a release of its own, which can be changed."""
    shutil.copytree(config.release, tmp_path / "release")
    return config.model_copy(update={"release": tmp_path / "release"})


def kill(worker):
    os.kill(pid(worker), signal.SIGKILL)
    worker._child._process.wait()


def test_a_worker_that_is_started_anew_does_not_change_the_release(movable):
    path = movable.release / "contract.json"
    with Worker(movable) as worker:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"release": "another"}))
        kill(worker)
        with pytest.raises(DeviceLost, match="restart the service"):
            worker.open()
        assert worker.describe().release == "small-1"
        assert worker._child is None


def test_a_release_that_cannot_be_read_at_a_restart_of_the_worker_is_waited_for(movable):
    with Worker(movable) as worker:
        away = movable.release.rename(movable.release.with_name("away"))
        kill(worker)
        with pytest.raises(DeviceLost, match="tried again"):
            worker.open()
        away.rename(movable.release)
        worker.open()
        assert worker.describe().release == "small-1"
