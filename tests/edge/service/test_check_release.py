import re
from dataclasses import replace

import pytest

from edge.config import ReferenceRule
from edge.errors import BackendFailed, BadRelease, InferenceFailed
from edge.service.finding import Finding
from edge.staleness import MachineFacts
from tests.edge.checkup_room import room_in_order


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


def test_the_engine_is_named_with_library_gpu_and_driver(room):
    facts = MachineFacts("11.1", gpu="NVIDIA L4", compute_capability="8.9", driver="580.65.06, CUDA 13.0")
    text = [one.what for one in room.findings("", facts=lambda flavour: facts)]
    assert "engine small-1 (onnxruntime, fp32): golden answers given" in text
    assert "library: onnxruntime 11.1, NVIDIA L4, driver 580.65.06, CUDA 13.0" in text


def test_an_engine_s_warnings_are_warnings_with_what_mends_them(room, engine):
    warned = replace(engine([]), warnings=("calibration set aaaa expected",), mend="use the newer release")
    (finding,) = room.findings("calibration set", open_engine=lambda config: warned)
    assert (finding.level, finding.mend) == ("warning", "use the newer release")


def test_an_engine_is_named_with_the_precision_that_was_delivered(room, engine):
    half = engine([], precision="fp16", delivered={"fp32": 51})
    (finding,) = room.findings("golden answers given", open_engine=lambda config: half)
    assert "(onnxruntime, fp32 computation of fp16 weights)" in finding.what


@pytest.mark.parametrize(
    ("error", "what", "mend"),
    [
        (BadRelease("r1: cannot be read (gone); publish it again"), "r1: cannot be read (gone)", "publish it again"),
        (BackendFailed("no GPU"), "no GPU", "choose another release: landmarknet-edge engine list"),
    ],
)
def test_an_engine_that_does_not_open_is_a_fault(room, error, what, mend):
    def fail(config):
        raise error

    findings = room.check(open_engine=fail)
    assert Finding("fault", what, mend) in findings
    assert not [finding for finding in findings if "golden answers given" in finding.what]


def no_facts(flavour):
    raise BackendFailed("the driver shows no GPU; see nvidia-smi")


@pytest.mark.parametrize("facts", [lambda flavour: MachineFacts("1.32"), no_facts], ids=["facts", "no facts"])
def test_an_engine_gives_its_device_back(room, engine, facts):
    closed = []
    held = engine([])
    object.__setattr__(held.backend, "close", lambda: closed.append(True))
    room.check(open_engine=lambda config: held, facts=facts)
    assert closed == [True]


# --- threads ---


@pytest.mark.parametrize(
    ("threads", "cores", "tried"), [(1, 1, []), (1, 2, [2]), (2, 4, [1, 4]), (3, 16, [1, 2, 4, 8])]
)
def test_an_inference_is_timed_as_configured_and_with_other_numbers_of_threads(room, engine, threads, cores, tried):
    asked = []

    def opened(config):
        asked.append(config.threads)
        return engine([])

    config = room.changed(threads=threads)
    (finding,) = room.findings("inference: ", config, open_engine=opened, cores=lambda: cores)
    assert asked == [threads, *tried]
    others = r", ".join(rf"\S+ with {one}" for one in tried)
    told = rf"inference: \S+ ms with threads = {threads}, as configured" + (
        rf"; just now {others} \(.*" if tried else ""
    )
    assert re.fullmatch(told, finding.what)
    assert finding.level == "ok"


def test_a_compiled_engine_has_no_threads_to_choose(room, engine):
    asked = []

    def opened(config):
        asked.append(config.threads)
        return engine([], flavour="tensorrt")

    (finding,) = room.findings("inference: ", open_engine=opened, cores=lambda: 4)
    assert asked == [1]
    assert re.fullmatch(r"inference: \S+ ms", finding.what)


def test_an_inference_that_fails_is_a_fault(room, engine):
    def fails(batch):
        raise InferenceFailed("the network failed (out of memory); it is tried again")

    failing = engine([])
    object.__setattr__(failing.backend, "infer", fails)
    findings = room.check(open_engine=lambda config: failing)
    mend = "free memory or the device, and check again"
    assert Finding("fault", "the network failed (out of memory)", mend) in findings


def test_a_number_of_threads_that_nobody_asked_for_may_fail_and_each_engine_is_given_back(room, engine):
    closed = []

    def opened(config):
        if config.threads == 4:
            raise BackendFailed("no threads to be had; try fewer")
        answering = engine([])
        object.__setattr__(answering.backend, "close", lambda: closed.append(config.threads))
        return answering

    findings = room.check(open_engine=opened, cores=lambda: 8)
    (finding,) = (one for one in findings if one.what.startswith("inference: "))
    assert re.fullmatch(r"inference: .*; just now \S+ with 2, \S+ with 8 \(.*\)", finding.what)
    assert closed == [1, 2, 8]
    assert "fault" not in {one.level for one in findings}


def test_what_stands_in_for_another_release_is_not_compared(room, engine):
    asked = []

    def opened(config):
        asked.append(config.threads)
        return replace(engine([]), rebuild_for=("driver 1",))

    (finding,) = room.findings("inference: ", open_engine=opened, cores=lambda: 4)
    assert asked == [1]
    assert re.fullmatch(r"inference: \S+ ms", finding.what)


# --- references ---


def test_a_folder_without_references_is_a_warning_and_damaged_ones_and_rules_without_one_are_faults(room, tmp_path):
    folder = tmp_path / "references"
    (finding,) = room.findings("references in", room.changed(references=folder))
    assert finding.level == "warning"
    folder.mkdir()
    (folder / f"{'a' * 64}.reference.json").write_text("{}")
    rule = ReferenceRule(image_name=".*", reference="b" * 64)
    findings = room.check(room.changed(references=folder, reference_rule=(rule,)))
    faults = [one.what[:23] for one in findings if one.level == "fault"]
    assert faults == [f"reference {'a' * 13}", "reference_rule .*: its "]
