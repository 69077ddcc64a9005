"""docs/runbook.md, followed word by word in a container, by someone who knows nothing: from the bundle to the removal.

The commands are taken from the file as they stand; only its words in capitals are replaced.
"""

import re
import shutil
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.manifest import CONTRACT_FILE, MANIFEST_FILE, SIGNATURE_FILE, Manifest
from edge.signature import generate_key, sign
from edge.source_file import hash_file
from edge.staleness import machine_facts
from tests.systemd.bundles import ROOT, another_version, slow

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
FOLLOWED = ("Install", "Configure", "Commission", "Operate", "Update, and back", "Engines", "Uninstall")
NOT_FOLLOWED = {  # the first line of a block, and why
    "make bundle": "on another machine; the fixture does it",
    "python3 -m venv /opt/landmarknet-edge/bench": "2 GB of PyTorch; test_real_systemd.py has a rebuild",
    "systemctl start landmarknet-edge-rebuild": "as above",
    "systemctl enable --now landmarknet-edge-rebuild.path": "as above",
}
CONFIG = "/etc/landmarknet-edge/landmarknet-edge.toml"
HOME = "/root"


def blocks(heading):
    """Return the blocks below a heading as (language, text), in their order."""
    section = RUNBOOK.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        (language, "\n".join(line.strip() for line in text.splitlines())) for language, text in BLOCK.findall(section)
    ]


def is_followed(text):
    return not any(text.startswith(first) for first in NOT_FOLLOWED)


def test_every_block_of_commands_is_below_a_heading_that_is_followed():
    assert len(BLOCK.findall(RUNBOOK)) == sum(len(blocks(heading)) for heading in FOLLOWED)
    passed_over = [text for heading in FOLLOWED for _, text in blocks(heading) if not is_followed(text)]
    assert len(passed_over) == len(NOT_FOLLOWED)


@dataclass
class Follower:
    """Does in a container what the runbook says; ``words`` are what stands for its words in capitals."""

    machine: object
    words: dict[str, str] = field(default_factory=dict)

    def follow(self, heading, **words):
        """Do what stands below a heading; return all that was printed."""
        steps = [step for step in blocks(heading) if is_followed(step[1])]
        return "".join(self.step(*step, self.words | words) for step in steps)

    def step(self, language, text, words, *, check=True):
        for word in sorted(words, key=len, reverse=True):
            text = re.sub(rf"(?<![A-Z]){word}(?![A-Z_])", words[word], text)
        if language == "toml":
            return self.write(text)
        path = "PATH=/opt/test/python/bin:$PATH"  # as if the system had this Python
        done = self.machine.run("sh", "-ec", f"cd {HOME}; {path}\n{text}", check=check, timeout_s=400)
        return done.stdout + done.stderr

    def write(self, text):
        """Put lines where the runbook wants them: a block at the end, others above the first block."""
        config = self.machine.path(CONFIG)
        before = config.read_text()
        if text not in before:
            config.write_text(f"{before}\n{text}\n" if text.startswith("[[") else f"{text}\n{before}")
        return ""


def signed_release(folder, name, key):
    """Return a release of the shipped model as a site's builder signs it."""
    release = shutil.copytree(SHIPPED_RELEASE, folder / name)
    contract = read_contract(release / CONTRACT_FILE)[0].model_copy(update={"release": name})
    (release / CONTRACT_FILE).write_text(contract.model_dump_json(by_alias=True))
    manifest = Manifest(
        release=name, software="test", created_utc=datetime.now(UTC),
        files={path.name: hash_file(path, path.name) for path in release.iterdir()},
        checkpoint_sha256=contract.checkpoint_sha256, onnx_sha256=contract.model_sha256, calibration_set_sha256=None,
        ranges_sha256=None, recipe_sha256="0" * 64, flavour=contract.flavour,
        flavour_version=machine_facts(contract.flavour).flavour_version, gpu=None, compute_capability=None, driver=None,
        precision=contract.precision, delivered=contract.delivered or {}, gate={"passed": True},
    )  # fmt: skip
    document = manifest.model_dump_json(by_alias=True).encode()
    (release / MANIFEST_FILE).write_bytes(document)
    (release / SIGNATURE_FILE).write_bytes(sign(document, key))
    return release


@pytest.fixture
def follower(bundle, booted, tmp_path):
    """Return whoever has carried two bundles, two releases and a key to the machine."""
    ids = {"ID": bundle.joinpath("VERSION").read_text().strip(), "NEW-ID": "0.0.2-other"}
    shutil.copy(bundle.parent / f"landmarknet-edge-{ids['ID']}.tar", booted.path(HOME))
    newer = another_version(bundle, tmp_path, VERSION=f"{ids['NEW-ID']}\n".encode())
    with tarfile.open(booted.path(f"{HOME}/landmarknet-edge-{ids['NEW-ID']}.tar"), "w") as archive:
        archive.add(newer, f"landmarknet-edge-{ids['NEW-ID']}")
    generate_key(tmp_path / "site.key", tmp_path / "site.pub")
    for name in ("r1", "r2"):
        shutil.copytree(signed_release(tmp_path, name, tmp_path / "site.key"), booted.path(f"/srv/{name}"))
    shutil.copy(tmp_path / "site.pub", booted.path("/srv/site.pub"))
    return Follower(booted, ids | {"FILE": "sample.dcm"})


def in_use(machine):
    return machine.path("/opt/landmarknet-edge/current").readlink().name


@slow
@pytest.mark.root
def test_who_follows_the_runbook_word_by_word_gets_where_it_leads(follower):
    """One long test: each step needs the one before."""
    machine, ids = follower.machine, follower.words
    said = follower.follow("Install")
    assert "in use:" in said
    assert "nothing was done" not in said
    assert machine.show("ActiveState") == {"ActiveState": "inactive"}

    assert "fault" not in follower.follow("Configure").split()
    machine.eventually(machine.path("/srv/portal/sample.landmarks.json").exists)
    assert machine.show("ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    follower.follow("Commission")

    machine.path("/srv/portal/X.landmarks.txt").touch()
    machine.eventually(lambda: "is named like our results" in machine.log())
    said = follower.follow("Operate")
    assert "A L L I S W E L L" in " ".join(said.split())
    assert "level=warning" in said
    assert "intact" in said

    update, back = (text for _, text in blocks("Update, and back"))
    good = machine.path(CONFIG).read_text()
    machine.path(CONFIG).write_text("setle_s = 2.0\n")
    refused = follower.step("", f"(\n{update}\n) || true", ids)
    assert "did you mean settle_s" in refused
    assert in_use(machine) == ids["ID"]
    machine.path(CONFIG).write_text(good)
    first = machine.main_pid()
    follower.step("", update, ids)
    assert in_use(machine) == ids["NEW-ID"]
    assert machine.main_pid() not in {0, first}
    follower.step("", back, ids)
    assert in_use(machine) == ids["ID"]

    shutil.copy(machine.path("/srv/site.pub"), machine.path("/etc/landmarknet-edge/site.pub"))
    *choose, (_, roll_back) = [step for step in blocks("Engines") if is_followed(step[1])]
    for name in ("r1", "r2"):
        said = [follower.step(*step, ids | {"RELEASE_FOLDER": f"/srv/{name}", "RELEASE": name}) for step in choose]
    assert "r2" in said[-1]
    assert "release=r2" in machine.log()
    follower.step("", roll_back, ids)
    machine.eventually(lambda: "release=r1" in machine.log())

    follower.follow("Uninstall")
    assert machine.show("LoadState") == {"LoadState": "not-found"}
    assert machine.path("/srv/portal/sample.landmarks.json").exists()
    assert not machine.path("/opt/landmarknet-edge").exists()


@slow
def test_what_the_runbook_leads_to_is_in_the_bundle(bundle):
    """In the room there is no network: a link is worth what lies beside it."""
    docs = bundle / "docs"
    assert (docs / "runbook.md").read_text() == RUNBOOK
    for page in docs.glob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert [link for link in links if not (docs / link).exists()] == [], page.name
