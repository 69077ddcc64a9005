import json

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.__main__ import ONLY_WHEN_NAMED, PARTS, ROOT, main, title, titles
from benchmarks.report import BEGIN, END

app = typer.Typer()
app.command()(main)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_title_and_a_measurement(part):
    text = (ROOT / "benchmarks" / f"{part}.py").read_text()
    assert titles()[part] != part
    assert "def measure(quick: bool, scratch: Path)" in text


def test_a_module_without_a_title_is_called_by_its_name(tmp_path):
    assert title(tmp_path / "decode.py") == "decode"


def test_what_takes_an_hour_is_a_part():
    assert set(ONLY_WHEN_NAMED) < set(PARTS)


def test_an_unknown_part_is_refused_before_anything_is_measured(tmp_path):
    result = CliRunner().invoke(app, ["elsewhere", "speed", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "speed" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_written_with_its_commands(tmp_path):
    result = CliRunner().invoke(app, ["elsewhere", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "performance.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"elsewhere"}
    assert all(row["ours"] is None and row["note"] for row in rows)


def test_the_page_has_a_place_for_the_rows():
    text = (ROOT / "docs/performance.md").read_text()
    assert text.index(BEGIN) < text.index(END)
