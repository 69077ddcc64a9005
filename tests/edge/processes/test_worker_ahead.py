from dataclasses import replace

import pytest

from edge.errors import (
    DamagedImage,
    WorkerDied,
)
from edge.processes.worker import Worker
from tests.edge.processes.worker_room import NEXT, OPEN, OTHER, TASK, await_end, fails, make, pid, task, untimed

NAMES_ITS_TASK = (
    "    parent.answer(of(r) | {'error': 'DamagedImage', 'message': r.header['name'] + ' from ' + str(start)})"
)
ECHOES = f"{OPEN}for r in requests:\n{NAMES_ITS_TASK}"


def answers(worker, task, then=None):
    with pytest.raises(DamagedImage) as caught:
        worker.make(task, lambda: then)
    return str(caught.value)


def test_an_image_that_the_worker_was_told_of_is_not_asked_twice(faked):
    number = "n.append(1) or len(n)"
    counts = (
        f"    parent.answer(of(r) | {{'error': 'DamagedImage', 'message': r.header['name'] + ' ' + str({number})}})"
    )
    worker = faked(f"{OPEN}n = []\nfor r in requests:\n{counts}")
    told = [answers(worker, TASK, NEXT), answers(worker, NEXT, OTHER), answers(worker, OTHER)]
    assert told == ["X.dcm 1", "Y.dcm 2", "Z.dcm 3"]


def test_an_image_that_did_not_come_next_has_its_answer_thrown_away(faked):
    worker = faked(ECHOES)
    assert answers(worker, TASK, NEXT) == "X.dcm from 1"
    assert answers(worker, OTHER, NEXT) == "Z.dcm from 1"
    assert answers(worker, NEXT) == "Y.dcm from 1"


def test_a_worker_that_died_of_nobody_knows_what_is_told_again(faked):
    worker = faked(f"{OPEN}for r in requests:\n{NAMES_ITS_TASK}\n    if start == 1: os._exit(1)")
    assert answers(worker, TASK, NEXT) == "X.dcm from 1"
    await_end(pid(worker))
    assert answers(worker, NEXT) == "Y.dcm from 2"


def test_a_worker_that_dies_over_an_image_that_did_not_come_next_blames_nobody(faked):
    worker = faked(f"{OPEN}for r in requests:\n    if r.header['name'] == 'Y.dcm': os._exit(1)\n{NAMES_ITS_TASK}")
    assert answers(worker, TASK, NEXT) == "X.dcm from 1"
    assert answers(worker, OTHER) == "Z.dcm from 2"


def test_a_fault_while_the_next_image_is_looked_for_gives_no_file_the_answer_of_another(faked):
    def fault():
        raise MemoryError("for the test")

    worker = faked(ECHOES)
    with pytest.raises(MemoryError):
        worker.make(TASK, fault)
    assert answers(worker, NEXT) == "Y.dcm from 2"


def test_an_answer_for_another_file_is_never_taken(faked):
    worker = faked(f"{OPEN}for r in requests:\n    parent.answer({{'of': '/other', 'outputs': [], 'kind': None}})")
    assert "answered for another file" in fails(worker, WorkerDied)


def test_the_golden_images_come_between_two_images(worker, write, dicom, collimated):
    path = write(dicom(collimated()))
    first = worker.make(task(path), lambda: replace(task(path), name="Y.dcm"))
    assert max(kind.shift_net_px for kind in worker.check_golden().kinds) == 0
    second = worker.make(replace(task(path), name="Y.dcm"))
    assert (first.result.image.name, second.result.image.name) == ("X.dcm", "Y.dcm")


def test_images_one_after_the_other_are_what_each_is_alone(worker, write, dicom, collimated):
    tasks = [replace(task(write(dicom(collimated(), PatientID=str(n)), f"{n}.dcm")), name=f"{n}.dcm") for n in range(4)]
    alone = [untimed(worker.make(one)) for one in tasks]
    in_a_row = [untimed(worker.make(one, lambda at=at: [*tasks, None][at + 1])) for at, one in enumerate(tasks)]
    assert in_a_row == alone
    assert worker.starts == 1


def test_a_fault_of_ours_over_an_answer_ends_the_worker(config, tmp_path, write, dicom, collimated):
    code = (
        "import sys; from edge.processes import worker_child as child; from edge.processes.child import Parent\n"
        "child._answer = lambda finish: 1 / 0\n"
        "child.main(Parent(sys.argv[1:]))"
    )
    with Worker(config, command=("-c", code)) as worker, pytest.raises(WorkerDied, match="ended with status 1"):
        make(worker, write(dicom(collimated())))


FILM = """
import sys, threading
import edge.pipeline as pipeline
from edge.processes.child import Parent
from edge.processes.worker_child import main
film_of = pipeline.film_of
def wrapped(pixels):
    assert threading.current_thread().name.startswith({thread!r}), threading.current_thread().name
    return film_of(pixels)
pipeline.film_of = wrapped
main(Parent(sys.argv[1:]))
"""


def test_the_film_is_drawn_on_the_drawing_thread(config, write, dicom, collimated):
    with Worker(config, command=("-c", FILM.format(thread="drawing"))) as worker:
        assert [name for name, _ in make(worker, write(dicom(collimated()))).outputs] == ["X.landmarks.png"]


def test_a_film_that_cannot_be_drawn_ends_the_worker(config, write, dicom, collimated):
    with (
        Worker(config, command=("-c", FILM.format(thread="no such thread"))) as worker,
        pytest.raises(WorkerDied, match="ended with status 1"),
    ):
        make(worker, write(dicom(collimated())))
