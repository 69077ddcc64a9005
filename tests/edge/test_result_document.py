import json
import runpy
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from edge.pipeline import Pipeline
from edge.results.document import Result, json_schema

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.landmarks.json"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory, engine, dicom, collimated):
    """Return the documents that the pipeline wrote, by status."""
    folder = tmp_path_factory.mktemp("documents")
    image = dicom(collimated())
    files = {
        "ok": ("X.dcm", image, engine([(20.0, 20.0, 0.6)], [(24.0, 25.0, 0.9)])),
        "no_landmarks": ("Y.dcm", image, engine([], [])),
        "refused": ("Z.dcm", image[:-999], engine([], [])),
    }
    for name, data, answering in files.values():
        (folder / name).write_bytes(data)
        Pipeline(answering, "d" * 64)(folder / name, None)
    return {status: (folder / name).with_suffix(".landmarks.json").read_bytes() for status, (name, *_) in files.items()}


@pytest.fixture(scope="module")
def valid():
    """Return a function: whether a document fulfils the published schema."""
    schema = json.loads((DOCS / "result.schema.json").read_text())
    return jsonschema.Draft202012Validator(schema).is_valid


def strict(data):
    """Parse JSON as its standard has it: no NaN, no Infinity."""

    def no_constant(name):
        raise ValueError(name)

    return json.loads(data, parse_constant=no_constant)


def test_the_published_schema_is_the_one_of_the_code():
    published = json.loads((DOCS / "result.schema.json").read_text())
    assert published == json_schema(), "run: make schema"


def test_the_description_of_the_format_is_made_of_the_schema():
    script = runpy.run_path(str(DOCS / "make_results_format.py"))
    assert (DOCS / "results-format.md").read_text() == script["results_format"](), "run: make schema"


def test_examples_show_a_shift_and_a_withheld_one():
    told = {path.name.split(".")[0]: json.loads(path.read_bytes())["registration"] for path in EXAMPLES}
    registered, withheld = told["registered"], told["withheld"]
    assert (registered["status"], withheld["status"], told["ok"]) == ("ok", "withheld", None)
    assert registered["interval95_mm"] is not None
    assert (bool(withheld["reason"]), withheld["shift_mm"]) == (True, None)


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("status", ["ok", "no_landmarks", "refused"])
def test_a_result_of_every_status_is_valid(documents, valid, status):
    document = strict(documents[status])
    assert document["status"] == status
    assert valid(document)


@pytest.mark.parametrize("status", ["ok", "no_landmarks", "refused"])
def test_a_document_can_be_read_back(documents, status):
    assert Result.model_validate_json(documents[status]).to_json() == documents[status]


def test_only_a_refusal_has_a_reason(documents):
    reasons = {status: strict(data)["reason"] for status, data in documents.items()}
    assert (reasons["ok"], reasons["no_landmarks"]) == (None, None)
    assert "Z.dcm" in reasons["refused"]


def test_a_document_is_a_text_file_that_opens_with_its_schema(documents):
    for data in documents.values():
        assert data.endswith(b"}\n")
        assert next(iter(strict(data).items())) == ("schema", "landmarknet-edge/result/1")


def test_every_document_warns_that_it_is_no_medical_device(documents):
    for data in documents.values():
        assert "not a medical device" in strict(data)["notice"]


@pytest.mark.parametrize("key", json_schema()["properties"])
def test_no_entry_may_be_missing(documents, valid, key):
    document = strict(documents["ok"])
    del document[key]
    assert not valid(document)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "status", "good"),
        ((), "schema", "landmarknet-edge/result/2"),
        ((), "patient_name", "A^B"),
        (("image",), "patient_id", "1"),
        (("image",), "sha256", "abc"),
        (("image",), "rows", 1.5),
        (("landmarks", 0), "x_px", "left"),
        (("landmarks", 0), "number", 4),
        (("geometry",), "status", "maybe"),
        (("geometry",), "spacing_mm", [0.8]),
        (("provenance",), "model_sha256", None),
        (("timing_ms",), "read", "fast"),
        (("outputs", 0), "sha256", "ABC"),
    ],
)
def test_what_is_not_in_the_schema_is_not_valid(documents, valid, place, key, value):
    document = strict(documents["ok"])
    part = document
    for step in place:
        part = part[step]
    part[key] = value
    assert not valid(document)
    with pytest.raises(ValidationError):
        Result.model_validate_json(json.dumps(document))


def test_a_result_cannot_be_changed(documents):
    result = Result.model_validate_json(documents["ok"])
    with pytest.raises(ValidationError, match="frozen"):
        result.status = "refused"


def test_there_is_an_example_of_every_status():
    assert {strict(path.read_bytes())["status"] for path in EXAMPLES} == {"ok", "no_landmarks", "refused"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_documented_examples_are_valid(valid, path):
    document = strict(path.read_bytes())
    assert valid(document)
    assert Result.model_validate_json(path.read_bytes()).to_json() == path.read_bytes()
    assert path.name.removesuffix(".landmarks.json") == document["image"]["name"].removesuffix(".dcm")
