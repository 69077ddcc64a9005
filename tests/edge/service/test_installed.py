from pathlib import Path

import pytest

from edge.config import Config
from edge.service.installed import service_of


@pytest.mark.parametrize(
    ("name", "state", "unit"),
    [
        ("landmarknet-edge.toml", "/var/lib/landmarknet-edge", "landmarknet-edge.service"),
        ("room2.toml", "/var/lib/landmarknet-edge-room2", "landmarknet-edge@room2.service"),
    ],
)
def test_an_installed_service_is_known_by_its_configuration(tmp_path, name, state, unit):
    file = tmp_path / name
    file.write_text("threads = 2\n")
    service = service_of(file, environment={}, installed=tmp_path / "landmarknet-edge.toml")
    assert (service.config.threads, service.config.state_dir, service.unit) == (2, Path(state), unit)


def test_without_a_file_the_installed_service_is_meant(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    assert service_of(None, environment={}, installed=file).config == Config()
    file.write_text("threads = 2\n")
    assert service_of(None, environment={}, installed=file).config_file == file


def test_a_state_folder_that_is_named_stays(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    file.write_text("state_dir = '/srv/state'\n")
    assert service_of(file, environment={}, installed=file).config.state_dir == Path("/srv/state")
    file.write_text("")
    assert service_of(file, environment={"STATE_DIRECTORY": "/given"}, installed=file).config.state_dir is None


def test_a_configuration_elsewhere_is_no_service_s(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    file.write_text("")
    assert service_of(file, environment={}).config.state_dir is None
