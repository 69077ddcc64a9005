import json
from pathlib import Path

import pytest

from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.page.found_result import understood
from edge.page.image_model import direction, output_kind, result_view, signed
from edge.page.scene import geometry_of
from edge.registration.reference import Reference, ReferenceLandmark
from edge.results.document import Result

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
KINDS = read_contract(SHIPPED_RELEASE / "contract.json")[0].kinds
NAMES = ("ok", "no_landmarks.png", "refused", "registered", "withheld")


def example(name):
    """Return a result of the documentation."""
    return json.loads((EXAMPLES / f"{name}.landmarks.json").read_text())


def result_of(document):
    """Return a document that must be understood."""
    result = understood(document)
    assert isinstance(result, Result), result
    return result


def viewed(name="registered", reference=None, **changes):
    """Return the view of an example, with other entries."""
    return result_view(result_of(example(name) | changes), KINDS, reference, "IEC 61217")


def registered(**changes):
    """Return the view of a registration with other entries."""
    return viewed(registration=example("registered")["registration"] | changes).registration


def values(rows):
    return {row.name: row.value for row in rows}


# --- what is understood ---


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_understood_as_it_is(name):
    assert result_of(example(name)) == Result.model_validate(example(name))


def test_another_schema_is_not_shown():
    told = understood(example("ok") | {"schema": "landmarknet-edge/result/2"})
    assert told == "its schema is 'landmarknet-edge/result/2', and this version shows landmarknet-edge/result/1"


@pytest.mark.parametrize("document", [{}, {"schema": 1}, {"schema": ["x"] * 1000}])
def test_another_program_s_document_is_not_shown(document):
    assert len(understood(document)) < 200


def test_entries_of_a_newer_version_are_passed_over():
    newer = example("registered") | {"weather": {"rain": True}}
    newer["image"]["station"] = "1"
    newer["landmarks"][0]["depth_mm"] = 3.0
    newer["registration"]["runner_up"] = {"shift_mm": {"x": 1.0, "y": 2.0, "z": 3.0}, "margin": 9.0, "rank": 2}
    result = result_of(newer)
    assert result.registration.runner_up.shift_mm.y == 2.0
    assert result.landmarks == result_of(example("registered")).landmarks


def test_missing_entries_of_an_older_version_are_null_or_empty():
    older = example("registered")
    del older["output_notes"], older["timing_ms"], older["registration"]["warnings"], older["image"]["modality"]
    result = result_of(older)
    assert (result.output_notes, result.timing_ms, result.registration.warnings) == ((), {}, ())
    assert result.image.modality is None


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "splendid"},
        {"image": None},
        {"landmarks": [1]},
        {"landmarks": {}},
        {"provenance": {}},
        {"timing_ms": 3},
    ],
    ids=str,
)
def test_what_contradicts_the_schema_is_not_shown_and_says_where(changes):
    told = understood(example("ok") | changes)
    assert isinstance(told, str)
    assert next(iter(changes)) in told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1e999", "nan"])
def test_a_number_that_is_none_is_not_shown(value):
    document = example("registered")
    document["landmarks"][0]["score"] = value
    assert understood(document) == "it has a number that is none"


def test_what_is_nested_too_deep_is_not_shown():
    deep = 1
    for _ in range(900):
        deep = {"a": deep}
    assert understood(example("ok") | {"weather": deep}) == "it is nested too deep"


def test_understanding_leaves_the_document_as_it_is():
    newer = example("ok") | {"weather": 1}
    understood(newer)
    assert newer["weather"] == 1


# --- numbers ---


@pytest.mark.parametrize(
    ("value", "shown"), [(2.64, "+2.6"), (-2.64, "−2.6"), (0.04, "+0.0"), (-0.04, "+0.0"), (None, "–")]
)
def test_a_number_has_its_sign_and_a_zero_no_minus(value, shown):
    assert signed(value) == shown


@pytest.mark.parametrize(("value", "told"), [(2.64, "2.6 mm right"), (-0.06, "0.1 mm left"), (0.04, "none")])
def test_a_direction_is_told_in_words(value, told):
    assert direction(value, "right", "left") == told


# --- landmarks ---


def test_points_are_rows_and_a_line_is_told_as_one():
    view = viewed()
    assert [row.kind.label for row in view.landmarks] == ["tracheal bifurcation", "louis angle"]
    (line,) = view.lines
    assert line.told == "19 points, from row 32 to row 363"
    assert len(line.rows) == 19


def test_a_landmark_is_told_in_px_and_mm_with_score():
    """(238.789, 144.793) px, (-8.734, 24.412) mm; 7.305 px at 0.784 * 1000 / 1500 mm are 3.8 mm."""
    first = viewed().landmarks[0]
    assert (first.x_px, first.y_px, first.x_mm, first.y_mm) == ("238.8", "144.8", "−8.7", "+24.4")
    assert (first.score, first.sigma) == ("0.65", "3.8 mm")


def test_without_millimetres_there_are_dashes_and_px():
    document = example("ok")
    document["geometry"] |= {"status": "unknown", "reason": "RTImageSID is missing", "sid_mm": None}
    document["landmarks"][0] |= {"x_mm": None, "y_mm": None}
    first = viewed("ok", **document).landmarks[0]
    assert (first.x_mm, first.y_mm) == ("–", "–")
    assert first.sigma.endswith(" px")


def test_kinds_are_drawn_as_in_the_overlay_and_others_after_them():
    document = example("ok")
    document["landmarks"].append(document["landmarks"][0] | {"kind": "xiphoid"})
    view = viewed("ok", **document)
    assert [(kind.kind, kind.mark, kind.is_line) for kind in view.kinds] == [
        ("spinous_process", "circle", False),
        ("tracheal_bifurcation", "cross", False),
        ("louis_angle", "diamond", False),
        ("spine_line", "square", True),
        ("xiphoid", "circle", False),
    ]
    assert view.kinds[0].colour == "#ff6060"


# --- registration ---


def test_a_shift_is_told_with_interval_direction_and_what_undoes_it():
    """(-2.59, -1.325) +- (7.157, 7.051) mm."""
    x, y = registered().axes
    assert (x.value, x.interval, x.where, x.undo) == ("−2.6", "± 7.2", "2.6 mm left", "2.6 mm right")
    assert (y.value, y.interval, y.where, y.undo) == ("−1.3", "± 7.1", "1.3 mm down", "1.3 mm up")


def test_a_withheld_registration_has_a_reason_and_no_number():
    view = viewed("withheld").registration
    assert view.reason == "only 1 landmark agrees with the reference, so nothing checks it"
    assert view.axes == ()
    assert not {"Residual", "Runner-up", "Rotation, counter-clockwise"} & values(view.rows).keys()


def test_what_a_shift_rests_on_is_told():
    told = values(
        registered(
            rotation_deg=-1.24,
            runner_up={"shift_mm": {"x": 0.4, "y": 24.96}, "margin": 12.34},
            outliers=["spinous_process"],
            support_deg=350.0,
        ).rows
    )
    assert told["Rotation, counter-clockwise"] == "−1.2°"
    assert told["Runner-up"] == "x +0.4 mm, y +25.0 mm, less likely by 12.3 nats"
    assert told["Residual"] == "2.3 mm root mean square"
    assert told["Landmarks that agree"] == "2, lines not counted"
    assert told["Landmarks that do not"] == "spinous process"
    assert (told["Gantry angle"], told["Couch angle"], told["Couch scale"]) == ("90.0°", "350.0°", "IEC 61217")


def test_a_shift_without_a_stated_interval_is_told_without_one():
    assert [axis.interval for axis in registered(interval95_mm=None).axes] == ["", ""]


def test_a_reference_is_told_by_hashes_and_who_signed():
    told = values(registered().reference)
    assert told["Landmarks by"] == "a person"
    assert told["Signed"] == "a person answers for them"
    assert told["Course (plan and patient)"] == "not known"
    assert values(viewed("withheld").registration.reference)["Landmarks by"].startswith("network, release room-cpu")


def test_a_registration_without_a_usable_reference_is_told():
    view = registered(status="withheld", reason="it is damaged", reference=None, shift_mm=None)
    assert (view.reason, view.reference) == ("it is damaged", ())


# --- geometry and provenance ---


def test_each_number_of_the_geometry_names_its_source():
    rows = {row.name: (row.value, row.source) for row in viewed("withheld").geometry}
    assert rows["Source to receptor"] == ("1500 mm", "RTImageSID")
    assert rows["Pixel spacing at the receptor (row, column)"] == ("0.784, 0.784 mm", "ImagePlanePixelSpacing")
    assert rows["Gantry angle"] == ("not known", "GantryAngle 0, untrusted: some exports always write it")
    assert rows["Receptor translation"] == ("", "XRayImageReceptorTranslation")
    assert rows["Couch angle"] == ("0.0°", "PatientSupportAngle")
    assert rows["Bright means more dose"] == ("", "PixelIntensityRelationshipSign")


def test_every_source_is_shown_also_one_that_this_version_does_not_know():
    document = example("ok")
    document["geometry"]["sources"]["tilt_deg"] = "Tilt"
    assert "Tilt" in [row.source for row in viewed("ok", **document).geometry]


def test_every_warning_of_the_geometry_is_shown_and_a_known_one_explained():
    document = example("ok")
    document["geometry"]["warnings"] = ["isocentre_uncertain", "of_another_version"]
    known, unknown = viewed("ok", **document).geometry_warnings
    assert "places relative to the isocentre cannot" in known.value
    assert (unknown.name, unknown.value) == ("of_another_version", "")


@pytest.mark.parametrize("change", [{"status": "unknown"}, {"sid_mm": None}, {"sid_mm": 0.0}, {"spacing_mm": None}])
def test_a_geometry_that_lacks_a_number_places_nothing(change):
    document = example("registered")
    document["geometry"] |= change
    assert geometry_of(result_of(document).geometry) is None
    view = viewed(**document)
    assert (view.scene["mm"], view.scene["shift"]) == (None, None)


def test_provenance_tells_model_engine_precision_and_calibration_set():
    made = viewed().provenance
    told = values(made)
    assert told["Engine"] == "onnxruntime 1.32.0"
    assert told["Precision delivered"] == "fp32"
    assert told["Calibration set"] == "none was used"
    (model,) = [row for row in made if row.name == "Model"]
    assert (model.value, model.whole) == (model.whole[:12], example("registered")["provenance"]["model_sha256"])


def test_a_backend_that_says_more_is_shown_whole():
    document = example("ok")
    document["provenance"]["backend"]["gpu_driver"] = "610.1"
    assert values(viewed("ok", **document).provenance)["gpu driver"] == "610.1"


@pytest.mark.parametrize("name", ["refused", "no_landmarks.png"])
def test_an_image_without_landmarks_has_empty_tables(name):
    view = viewed(name)
    assert (view.landmarks, view.lines, view.registration) == ((), (), None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("X.landmarks.png", "overlay"), ("X.landmarks.sr.dcm", "structured report"), ("X.txt", "another file")],
)
def test_an_output_is_called_what_it_is(name, kind):
    assert output_kind(name) == kind


# --- the scene ---


def reference(**changes):
    """Return the reference of the registered example, with a place off the image."""
    used = example("registered")["registration"]["reference"]
    places = [("louis_angle", -8.734, 24.412), ("tracheal_bifurcation", 500.0, 0.0)]
    return Reference(
        key=used["key"],
        image=None,
        landmarks_from="network",
        release="r",
        signed_off_by=None,
        signed_off_utc=None,
        gantry_deg=90.0,
        support_deg=0.0,
        window_mm=(-100, -100, 100, 100),
        axes="",
        warnings=(),
        landmarks=tuple(ReferenceLandmark(kind=k, shape="point", x_mm=x, y_mm=y, sigma_mm=1.0) for k, x, y in places),
    )


def test_the_reference_is_drawn_where_its_millimetres_lie_on_the_image():
    """The first place is where the result has the bifurcation in mm, so it must be there in px, too."""
    drawn = {kind["label"]: kind["places"] for kind in viewed(reference=reference()).scene["reference"]}
    assert drawn["louis angle"] == [pytest.approx([238.789, 144.793], abs=0.01)]  # px; the result has three decimals
    assert drawn["tracheal bifurcation"] == []


@pytest.mark.parametrize("size", [10**400, -1, 0])
def test_on_an_image_of_no_size_nothing_is_drawn(size):
    image = example("registered")["image"] | {"rows": size, "columns": size}
    assert all(kind["places"] == [] for kind in viewed(reference=reference(), image=image).scene["reference"])


def test_why_a_reference_is_not_drawn_is_told():
    view = viewed(reference="its landmarks are not drawn: it was replaced since")
    assert view.scene["reference"] == []
    assert view.registration.reference_note == "its landmarks are not drawn: it was replaced since"


def test_the_arrow_leads_from_the_isocentre_by_the_shift():
    """-2.59 mm at 0.784 / 1.5 mm a pixel are 4.955 px to the left, -1.325 mm are 2.535 px down."""
    (x0, y0), (x1, y1) = viewed().scene["shift"]
    assert (x0, y0) == pytest.approx((200.312 / 0.784, 150.136 / 0.784), abs=0.001)
    assert (x1 - x0, y1 - y0) == pytest.approx((-4.955, 2.535), abs=0.002)


def test_a_withheld_shift_has_no_arrow():
    assert viewed("withheld").scene["shift"] is None


def test_the_ring_holds_95_percent():
    """2.4477 standard deviations of 7.305 px."""
    assert viewed().scene["landmarks"][0]["radius95"] == pytest.approx(17.88, abs=0.01)


def test_millimetres_of_a_place_are_those_of_its_landmark():
    mm, entry = viewed().scene["mm"], example("registered")["landmarks"][0]
    place = [mm["first"][axis] + entry[name] * mm["step"][axis] for axis, name in enumerate(("x_px", "y_px"))]
    assert place == pytest.approx([entry["x_mm"], entry["y_mm"]], abs=0.001)


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_is_json_without_nan(name):
    json.dumps(viewed(name).scene, allow_nan=False)
