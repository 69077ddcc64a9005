"""What a release computes in, as every result tells it: what the compiler delivered, not what was asked for."""

import json

import pytest

from edge.contract import read_contract
from edge.engines import load_backend

PLAIN = {"int8": 0, "fp16": 0, "fp32": 51}
OF_HALF = "fp32 computation of fp16 weights"


@pytest.mark.parametrize(
    ("asked", "delivered", "said"),
    [
        ("fp16", PLAIN, OF_HALF),
        ("fp16", {"int8": 0, "fp16": 40, "fp32": 11}, "fp16"),
        ("fp32", PLAIN, "fp32"),
        ("int8", {"int8": 3, "fp16": 29, "fp32": 19}, "int8"),
        ("int8", {"int8": 0, "fp16": 29, "fp32": 19}, "fp16 and fp32 computation of int8 weights"),
        ("fp16", {"int8": 0, "fp16": 0, "fp32": 0}, "fp16"),  # a graph without layers that multiply
        ("fp16", None, "fp16"),  # published by an earlier version
    ],
)
def test_a_precision_that_no_layer_computes_in_is_not_claimed(contract, asked, delivered, said):
    assert contract(precision=asked, delivered=delivered).precision_delivered == said


def test_a_backend_says_what_was_delivered_for_the_provenance(contract, rows, tiny_model):
    promise = contract(precision="fp16", delivered=PLAIN)
    backend = load_backend(tiny_model(rows([], [])), promise, 1)
    assert backend.describe()["precision"] == OF_HALF


def test_a_contract_of_an_earlier_version_says_nothing_of_what_was_delivered(contract, tmp_path):
    document = json.loads(contract().model_dump_json(by_alias=True))
    document.pop("delivered", None)
    (tmp_path / "contract.json").write_text(json.dumps(document))
    assert read_contract(tmp_path / "contract.json")[0].delivered is None
