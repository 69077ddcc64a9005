"""The command line, run in the process of the test; and Python in one of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.cli import app


@pytest.fixture
def process():
    """Return a function that runs ``landmarknet-edge process`` in this process; nothing but SystemExit may escape."""

    def run(*arguments):
        outcome = CliRunner().invoke(app, ["process", *map(str, arguments)])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
        assert "Traceback" not in outcome.output
        return outcome

    return run


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs code in a Python of its own, and returns it when it has ended."""

    def run(code):
        checkout = Path(__file__).parents[3]
        return subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False)

    return run
