import shutil
import time

import pytest

from edge.config import Config, DropFolderConfig
from edge.page.app import page_app
from edge.page.engines_view import engines_of
from edge.page.sources import Sources
from edge.service.installed import Service
from edge.service.page_doors import doors_of
from tests.page.client import Client
from tests.page.made_room import overlay_bytes

GATE = {
    "passed": False,
    "faults": ["louis_angle: <b>moved</b> by 3 px"],
    "images": 120,
    "kinds": {
        "louis_angle": {
            "landmarks": 40,
            "shift_net_px": {"worst": 3.14159},
            "shift_mm": {"p99": 1.005},
            "lost": {"all": 2},
            "extra": {"all": 0},
        }
    },
}


@pytest.fixture
def sources(tmp_path, store, keys):
    (tmp_path / "drop").mkdir()
    config = Config(
        drop_folder=(DropFolderConfig(path=tmp_path / "drop"),),
        state_dir=tmp_path / "state",
        store=store.root,
        release_key=keys[1],
    )
    opened = Sources(Service(tmp_path / "room.toml", config, "landmarknet-edge.service"), time.monotonic)
    yield opened
    opened.close()


@pytest.fixture
def page(sources):
    return Client(page_app(sources, doors_of(sources.config.page)))


def with_gate(staged, seal, store, name, **entries):
    folder = staged(name)
    (folder / "gate.png").write_bytes(overlay_bytes())
    store.add(seal(folder, name, **entries))


def test_the_release_in_use_stands_first_and_the_one_before_it_second(filled, sources):
    releases = engines_of(sources).releases
    assert [(one.name, one.place) for one in releases] == [("r2", "in use"), ("r1", "used before"), ("r3", "")]


def test_what_was_built_for_another_library_is_stale_and_says_what_mends_it(filled, sources):
    current = engines_of(sources).releases[0]
    assert current.word == "in use, stale"
    text, mend = current.stale[0]
    assert text.startswith("library ")
    assert text.endswith("built for 1.0")
    assert "landmarknet-build-engine" in mend


def test_a_gpu_that_was_not_asked_is_no_difference(staged, store, sources, seal):
    compiled = {"flavour": "tensorrt", "flavour_version": "11", "gpu": "H200", "compute_capability": "9.0"}
    folder = staged("plan", promised={"flavour": "tensorrt"})
    store.add(seal(folder, "plan", **compiled))
    (release,) = engines_of(sources).releases
    assert [text for text, _ in release.stale if not text.startswith("model")] == []


def test_a_gate_is_shown_by_kind_with_its_faults_as_text(staged, store, sources, seal, page):
    with_gate(staged, seal, store, "r1", gate=GATE)
    (release,) = engines_of(sources).releases
    (kind,) = release.kinds
    assert (release.gate, release.level) == ("not passed", "bad")
    assert (kind.name, kind.landmarks, kind.worst_px, kind.p99_mm, kind.lost) == (
        "louis_angle",
        "40",
        "3.14",
        "1.00",
        "2",
    )
    text = page.get("/engines").text
    assert "&lt;b&gt;moved&lt;/b&gt;" in text
    assert "/engines/r1/gate.png" in text
    assert page.get("/engines/r1/gate.png").body == overlay_bytes()


@pytest.mark.parametrize(
    "gate",
    [{}, {"passed": True, "kinds": [1]}, {"kinds": {"x": 3}, "faults": "x"}, {"kinds": {"x": {"lost": []}}}],
    ids=str,
)
def test_a_gate_of_another_form_is_shown_as_far_as_it_is_known(staged, store, sources, seal, page, gate):
    with_gate(staged, seal, store, "r1", gate=gate)
    assert page.get("/engines").status == 200


def test_a_picture_that_was_altered_is_not_shown(staged, store, seal, page):
    with_gate(staged, seal, store, "r1", gate=GATE)
    (store.root / "releases/r1/gate.png").write_bytes(overlay_bytes(8, 8))
    assert page.get("/engines/r1/gate.png").status == 404


@pytest.mark.parametrize("name", ["r9", "..", "r1%2f..%2fr1", ".staging", "current"])
def test_there_is_no_picture_of_what_is_no_release(filled, page, name):
    assert page.get(f"/engines/{name}/gate.png").status == 404


def test_a_release_that_was_forged_is_shown_as_one_that_cannot_be_used(filled, store, sources, page):
    manifest = store.root / "releases/r3/manifest.json"
    manifest.write_text(manifest.read_text().replace("landmarknet-edge 0", "landmarknet-edge 9"))
    forged = engines_of(sources).releases[-1]
    assert (forged.name, forged.word, forged.level) == ("r3", "cannot be used", "bad")
    assert page.get("/engines").status == 200


def test_a_store_that_is_gone_is_told(filled, store, page):
    shutil.rmtree(store.root)
    answer = page.get("/engines")
    assert answer.status == 200
    assert "the store cannot be read" in answer.text


def test_the_commands_name_the_configuration_and_nothing_can_be_pressed(filled, sources, page):
    lines = [line for _, line in engines_of(sources).commands]
    assert f"landmarknet-edge engine rollback --config {sources.service.config_file}" in lines
    text = page.get("/engines").text
    main = text[text.index("<main") : text.index("</main>")]
    assert not any(tag in main for tag in ("<form", "<button", "<input"))
