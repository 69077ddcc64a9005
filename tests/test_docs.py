import re
from pathlib import Path

import pytest

from edge.contract import delivered_in_words

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge", "build_engine", "calibration", "landmarknet")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__init__.py"], ids=str)
def test_every_file_is_in_a_row_of_the_architecture(file):
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert any(f"`{file.name}`" in row for row in rows)


@pytest.mark.parametrize(
    ("asked", "layers"),
    [
        ("fp32", {"fp32": 51}),
        ("fp16", {"fp16": 40, "fp32": 11}),
        ("int8", {"int8": 30, "fp32": 21}),
        ("fp16", {"fp32": 51}),
        ("int8", {"fp16": 29, "fp32": 22}),
    ],
)
def test_what_a_result_says_of_its_precision_is_explained(asked, layers):
    assert f"\n| `{delivered_in_words(asked, layers)}`" in (ROOT / "docs/results.md").read_text()
