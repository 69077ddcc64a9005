import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edge.cli
import landmarknet.cli
from edge.config import read_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_configuration_shown_is_valid(tmp_path):
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "room.toml"
    path.write_text(shown)
    config = read_config(path)
    assert config.drop_folder[0].path == Path("/data/portal")


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_leads_somewhere(target):
    assert (ROOT / target).exists()


COMMANDS = sorted(set(re.findall(r"^landmarknet-(edge|train) ([\w-]+)", README, re.MULTILINE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shown_exists(command):
    program, name = command
    app = edge.cli.app if program == "edge" else landmarknet.cli.app
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_make_targets_shown_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
