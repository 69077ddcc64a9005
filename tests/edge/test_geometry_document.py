import doctest
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "geometry.md"


def test_the_worked_example_of_the_geometry_document_holds():
    result = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 10  # it was found at all
