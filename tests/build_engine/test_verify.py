import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from build_engine.candidate import Candidate, Refusal, give_back_layers
from build_engine.compiled import Compiled
from build_engine.gate_report import report_files
from build_engine.golden import golden_input
from build_engine.quantize import quantisable_layers, quantise, quantised_tensors
from build_engine.sensitivity import LayerEffect
from build_engine.verify import GateLimits, run_gate
from calibration.collect import with_outputs
from edge.backends.function import FunctionBackend
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.contract import KindContract
from edge.engines import SHIPPED_RELEASE
from landmarknet.evaluate import Finding, find

MM_PER_PX, NET_PER_PX = 0.4, 0.5  # so 0.8 mm per network px
CARINA = KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1)
SPINE = KindContract(kind="spine_line", threshold=0.5, at_most=64, shape="line")
LIMITS = GateLimits(least_images=1)  # one is enough to see what the gate does with it


def carina(xy_px=(100.0, 120.0), score=0.9, truth=(101.0, 120.0), image="a.dcm"):
    return Finding(
        kind="tracheal_bifurcation", patient="p", view="ap", modality="mv", image=image, labelled=True,
        truth_px=np.array([truth]), found_px=np.array([xy_px]), scores=np.array([score]), widths_px=np.ones(1),
        size_px=(384, 384), mm_per_px=MM_PER_PX, net_per_px=NET_PER_PX,
    )  # fmt: skip


def spine(x_px=50.0, scores=(0.9,) * 6, image="a.dcm"):
    y = np.arange(6) * 16.0
    found = np.stack((np.full(6, x_px), y), axis=1)
    ridge = np.column_stack((found * NET_PER_PX, scores))
    return Finding(
        kind="spine_line", patient="p", view="ap", modality="mv", image=image, labelled=True, truth_px=found,
        found_px=found, scores=np.array(scores), widths_px=np.ones(6), size_px=(384, 384), mm_per_px=MM_PER_PX,
        net_per_px=NET_PER_PX, ridge_net=ridge, judged=np.ones(6, bool),
    )  # fmt: skip


class Reading:
    kinds = (CARINA,)


def gate(reference, candidate, limits=LIMITS, kinds=(CARINA,)):
    reading = Reading()
    reading.kinds = kinds
    return run_gate(reference, candidate, reading, limits)


def test_the_same_answers_pass():
    result = gate([carina()], [carina()])
    assert result.passed
    assert result.kinds[0].shifts_net_px.tolist() == [0.0]
    assert result.setup_mm.tolist() == [0.0]


def test_a_shift_is_told_in_network_px_and_in_mm():
    moved = gate([carina((100.0, 120.0))], [carina((101.2, 118.4))])  # 2 detector px away
    assert moved.kinds[0].shifts_net_px == pytest.approx([2.0 * NET_PER_PX])
    assert moved.kinds[0].shifts_mm == pytest.approx([2.0 * MM_PER_PX])
    assert moved.setup_mm == pytest.approx([2.0 * MM_PER_PX])


def test_a_landmark_that_moves_more_than_allowed_fails_and_is_named():
    images = [f"{i}.dcm" for i in range(20)]
    reference = [carina(image=name) for name in images]
    candidate = [carina((100.0, 126.0) if name == "7.dcm" else (100.0, 120.0), image=name) for name in images]
    result = gate(reference, candidate)
    (fault,) = result.faults  # 6 px are 3 network px; the truth, 6.1 px away, is still within 8
    assert "3.00 px" in fault
    assert "2.40 mm" in fault
    assert "7.dcm" in fault


@pytest.mark.parametrize(("score", "faults"), [(0.56, 1), (0.54, 0)])
def test_only_a_landmark_that_clears_its_threshold_may_not_vanish(score, faults):
    far = replace(carina(score=score), truth_px=np.zeros((0, 2)))  # not in the truth: PCK does not change
    gone = far.silent()
    stay = [carina(image=f"{i}.dcm") for i in range(19)]  # with them, an unclear one is one in twenty
    result = gate([far, *stay], [gone, *stay])
    assert len(result.faults) == faults
    assert len(result.kinds[0].lost) == 1
    appeared = gate([gone, *stay], [far, *stay])
    assert len(appeared.faults) == faults
    assert len(appeared.kinds[0].extra) == 1


def test_a_landmark_near_its_threshold_may_vanish_once_in_twenty_but_not_jump():
    near = replace(carina((100.0, 120.0), score=0.54), truth_px=np.zeros((0, 2)))
    far_off = replace(near, found_px=np.array([(100.0, 300.0)]))  # 72 mm
    stay = [carina(image=f"{i}.dcm") for i in range(19)]
    (fault,) = gate([near, *stay], [far_off, *stay]).faults
    assert "2 of 21" in fault
    assert "score 0.54 in a.dcm" in fault
    two = [near, replace(near, image="b.dcm"), *stay]
    (fault,) = gate(two, [one.silent() for one in two[:2]] + stay).faults
    assert "2 of 21" in fault
    wide = GateLimits(least_images=1, unclear_share=0.1)
    assert gate([near, *stay], [far_off, *stay], wide).passed


def test_a_landmark_that_slips_over_the_end_of_the_labels_has_not_vanished():
    inside = replace(carina((100.0, 120.0)), kind="spinous_process")
    over = replace(inside.silent(), beyond=np.array([(100.0, 120.01, 0.9)]))
    stays = replace(carina(image="b.dcm"), kind="spinous_process")
    promise = CARINA.model_copy(update={"kind": "spinous_process", "at_most": 10})
    result = gate([inside, stays], [over, stays], GateLimits(least_images=1, pck_drop_points=100), kinds=(promise,))
    assert result.faults == ()
    assert result.kinds[0].shifts_net_px == pytest.approx([0.01 * NET_PER_PX, 0.0])


def test_a_landmark_at_another_place_is_one_lost_and_one_extra():
    result = gate([carina((100.0, 120.0))], [carina((100.0, 160.0))])  # 16 mm
    assert len(result.kinds[0].lost) == len(result.kinds[0].extra) == 1
    assert not result.passed


def test_a_loss_of_pck_fails_although_nothing_moves_far():
    edge = carina((100.0, 120.0), truth=(100.0, 127.9))
    over = carina((100.0, 119.8), truth=(100.0, 127.9))  # 8.1 px of the 384 grid: no longer right
    (fault,) = gate([edge], [over]).faults
    assert "loses 100.0 points" in fault


def test_a_line_is_compared_row_by_row():
    result = gate([spine(50.0)], [spine(51.0)], kinds=(SPINE,))
    assert result.kinds[0].shifts_net_px == pytest.approx([0.5] * 6)
    shorter = gate([spine()], [spine(scores=(0.9, 0.9, 0.9, 0.9, 0.9, 0.4))], kinds=(SPINE,))
    assert len(shorter.kinds[0].lost) == 1


def test_the_verdict_in_a_line_names_the_kind_that_moves_most():
    still, spined = carina(), replace(carina(), kind="spinous_process")
    moved = replace(spined, found_px=np.array([(100.0, 121.0)]))
    promise = CARINA.model_copy(update={"kind": "spinous_process"})
    result = gate([still, spined], [still, moved], kinds=(CARINA, promise))
    assert result.in_words == "passed on 1 image(s), spinous_process moves most: 0.50 px at the 99th percentile"
    silent = carina().silent()
    assert gate([silent], [silent]).in_words == "NOT passed on 1 image(s)"


def test_nothing_found_proves_nothing():
    silent = carina().silent()
    assert any("nothing was proved" in fault for fault in gate([silent], [silent]).faults)


def test_a_kind_of_which_no_landmark_was_compared_is_not_proved():
    unseen = replace(carina().silent(), kind="louis_angle")
    promise = CARINA.model_copy(update={"kind": "louis_angle"})
    (fault,) = gate([carina(), unseen], [carina(), unseen], kinds=(CARINA, promise)).faults
    assert fault.startswith("louis_angle: ")
    assert "in 1 image" in fault
    hidden = replace(unseen, truth_px=np.zeros((0, 2)))
    assert not gate([carina(), hidden], [carina(), hidden], kinds=(CARINA, promise)).passed, "it has a label, unseen"


def test_a_kind_that_nobody_labelled_in_the_images_is_not_asked_for():
    promise = CARINA.model_copy(update={"kind": "louis_angle"})
    nowhere = replace(carina().silent(), kind="louis_angle", labelled=False, truth_px=np.zeros((0, 2)))
    assert gate([carina(), nowhere], [carina(), nowhere], kinds=(CARINA, promise)).passed
    assert gate([carina()], [carina()], kinds=(CARINA, promise)).passed, "left out of the findings altogether"


def test_a_kind_that_is_only_seen_where_it_has_no_labels_is_not_asked_for_but_may_not_move():
    promise = CARINA.model_copy(update={"kind": "louis_angle"})
    in_ap = replace(carina(), kind="louis_angle", truth_px=np.zeros((0, 2)), unlabelled_view=True)
    silent, moved = in_ap.silent(), replace(in_ap, found_px=np.array([(100.0, 126.0)]))
    assert gate([carina(), silent], [carina(), silent], kinds=(CARINA, promise)).passed
    (fault,) = gate([carina(), in_ap], [carina(), moved], kinds=(CARINA, promise)).faults
    assert fault.startswith("louis_angle moves 3.00 px")


@pytest.mark.parametrize(("count", "passed"), [(19, False), (20, True)])
def test_too_few_images_prove_nothing(count, passed):
    findings = [carina(image=f"{i}.dcm") for i in range(count)]
    result = gate(findings, findings, GateLimits())
    assert result.passed == passed
    assert passed or "19 images, at least 20 are needed" in result.faults[0]


def test_answers_about_different_images_are_not_compared():
    with pytest.raises(ValueError, match="same images"):
        gate([carina(image="a.dcm")], [carina(image="b.dcm")])


def candidate_with(result, **changes):
    compiled = Compiled(b"", "model.onnx", "onnxruntime", "1.0", {"int8": 3})
    return Candidate("int8", compiled, FunctionBackend(lambda batch: batch), "onnxruntime", result, **changes)


def test_the_reports_say_what_the_gate_said():
    files = report_files(candidate_with(gate([carina()], [carina((100.0, 126.0))]), kept_float=("conv7",), speed=0.5))
    text, document = files["md"].decode(), json.loads(files["json"])
    assert "NOT passed" in text
    assert "3.00 px at the 99th percentile" in text
    assert "conv7" in text
    assert document["passed"] is False
    assert document["kinds"]["tracheal_bifurcation"]["shift_mm"]["worst"] == pytest.approx(2.4)
    assert (document["time_of_float32"], document["kept_float"]) == (0.5, ["conv7"])
    assert files["png"].startswith(b"\x89PNG")


def test_the_reports_say_what_was_refused_before_and_what_there_is_to_warn_of():
    refused = (Refusal((), ("it moves", "it vanishes")), Refusal(("conv7",), ("it still moves",), ("conv8",)))
    kept = tuple(f"conv{n}" for n in range(29))
    files = report_files(candidate_with(gate([carina()], [carina()]), refused=refused, kept_float=kept, speed=1.11))
    text, document = files["md"].decode(), json.loads(files["json"])
    assert "3 of 32" in text
    assert "1.11 of the time of float32" in text
    assert "| 1 | conv8 | it still moves |" in text
    assert "| 0 | all | it moves; it vanishes |" in text
    assert len(document["warnings"]) == 2
    assert document["refused"][1] == {"kept_float": ["conv7"], "taken": ["conv8"], "faults": ["it still moves"]}
    assert document["delivered"] == {"int8": 3}


def test_unclear_changes_are_counted_in_the_reports():
    near = replace(carina((100.0, 120.0), score=0.54), truth_px=np.zeros((0, 2)))
    files = report_files(candidate_with(gate([near, carina(image="b.dcm")], [near.silent(), carina(image="b.dcm")])))
    kind = json.loads(files["json"])["kinds"]["tracheal_bifurcation"]
    assert kind["unclear_share"] == 0.5
    assert "| 1 of 2 |" in files["md"].decode()


def test_a_landmark_that_vanished_is_listed_with_its_image():
    files = report_files(candidate_with(gate([carina()], [carina().silent()])))
    (lost,) = json.loads(files["json"])["changes"]["lost"]
    assert (lost["image"], lost["score"], lost["clear"]) == ("a.dcm", 0.9, True)


def test_without_a_gate_there_is_no_report():
    assert report_files(candidate_with(None)) == {}


@pytest.fixture(scope="module")
def mixed(samples, shipped, tmp_path_factory):
    """The shipped network with as many layers in INT8 as the gate lets pass, what judges it, and one of these layers.

    Judged on four images of a patient it never saw: far too few, but a damage must show on them.
    """
    folder = tmp_path_factory.mktemp("images")
    images = folder / "lidc0002"
    images.mkdir()
    for path in (*samples.glob("*.dcm"), samples / "truth.json"):
        shutil.copy(path, images)
    model = (SHIPPED_RELEASE / shipped.contract.model_file).read_bytes()
    amax = largest_activations(model, [golden_input(path, shipped.contract) for path in sorted(images.glob("*.dcm"))])
    layers = quantisable_layers(model)
    reference = find(shipped.backend, shipped.contract, folder, ["lidc0002"])

    def judge(graph):
        found = find(OnnxRuntimeBackend(graph, 1, "int8"), shipped.contract, folder, ["lidc0002"])
        return run_gate(reference, found, shipped.contract, GateLimits(least_images=4))

    def attempt(keep):
        graph = quantise(model, amax, keep, "onnxruntime")
        compiled = Compiled(graph, "model.onnx", "onnxruntime", "1.0", {"int8": len(layers) - len(keep)})
        return Candidate("int8", compiled, shipped.backend, "onnxruntime", judge(graph), keep)

    effects = tuple(LayerEffect(layer, 0.0) for layer in layers)  # those near the image give way first
    chosen = give_back_layers(attempt, lambda: effects, lambda _: None)
    in_int8 = [layer for layer in layers if layer not in chosen.kept_float]
    return chosen, judge, in_int8[len(in_int8) // 2]


def test_int8_passes_in_a_good_part_of_the_layers(mixed):
    chosen, judge, _ = mixed
    result = judge(chosen.compiled.data)
    assert result.faults == ()
    assert all(kind.moves for kind in result.kinds)
    assert chosen.compiled.delivered["int8"] >= 8


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_middle_layer_whose_scale_is_off_by_four_is_caught(mixed, factor):
    chosen, judge, layer = mixed
    assert not judge(with_scaled_weights(chosen.compiled.data, layer, factor)).passed


def with_scaled_weights(graph, layer, factor):
    """Return an INT8 graph with the scales of one convolution's weights off by a factor."""
    proto = onnx.load_from_string(graph)
    weights = next(n.input[1] for n in proto.graph.node if n.name == layer)
    (name,) = (n.input[1] for n in proto.graph.node if n.op_type == "DequantizeLinear" and weights in n.output)
    scale = next(i for i in proto.graph.initializer if i.name == name)
    values = onnx.numpy_helper.to_array(scale) * np.float32(factor)
    scale.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return proto.SerializeToString()


def largest_activations(model, batches):
    """Return amax per tensor over some inputs, by running the graph with all that INT8 needs as outputs."""
    names = quantised_tensors(model, form="onnxruntime")
    session = ort.InferenceSession(with_outputs(onnx.load_from_string(model), names))
    computed = [name for name in names if name != "image"]
    found = [dict(zip(computed, session.run(computed, {"image": b}), strict=True)) | {"image": b} for b in batches]
    return {name: float(max(np.abs(one[name]).max() for one in found)) for name in names}
