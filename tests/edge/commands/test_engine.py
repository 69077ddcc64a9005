import hashlib
import json
import shutil

import onnxruntime
import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.commands.engine import table
from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.signature import generate_key, sign
from edge.store import Listed, Store

ZEROS = "0" * 64


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "site", folder / "site.pub")
    return folder / "site", folder / "site.pub"


@pytest.fixture
def staged(tmp_path, keys):
    """Return a function that makes a signed release folder of the shipped model."""

    def make(name, contract=None, **entries):
        folder = shutil.copytree(SHIPPED_RELEASE, tmp_path / "staged" / name)
        promise = read_contract(folder / "contract.json")[0]
        delivered = entries.get("delivered", promise.delivered)
        promise = promise.model_copy(update={"release": name, "delivered": delivered} | (contract or {}))
        (folder / "contract.json").write_text(promise.model_dump_json(by_alias=True))
        document = {
            "release": name, "software": "landmarknet-edge 0", "created_utc": "2026-01-02T03:04:05Z",
            "files": {path.name: sha256(path.read_bytes()) for path in folder.iterdir()},
            "checkpoint_sha256": promise.checkpoint_sha256, "onnx_sha256": promise.model_sha256,
            "calibration_set_sha256": None, "ranges_sha256": None, "recipe_sha256": ZEROS, "flavour": "onnxruntime",
            "flavour_version": "0.9", "gpu": None, "compute_capability": None, "driver": None, "precision": "fp32",
            "delivered": delivered, "gate": {"passed": True},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(document | entries))
        (folder / "manifest.sig").write_bytes(sign((folder / "manifest.json").read_bytes(), keys[0]))
        return folder

    return make


@pytest.fixture
def filled(tmp_path, keys, staged):
    """Return a store of r1, r2 and r3: r2 is current, r1 is previous."""
    store = Store(tmp_path / "store", keys[1])
    for name, gate in (("r1", {"passed": True}), ("r2", {}), ("r3", {"passed": False})):
        store.add(staged(name, gate=gate))
    store.use("r1")
    store.use("r2")
    return store


@pytest.fixture
def engine(filled):
    """Return a function that runs ``landmarknet-edge engine`` on the store."""

    def run(command, *arguments):
        options = ["--store", filled.root, "--key", filled.key]
        return CliRunner().invoke(app, list(map(str, ["engine", command, *arguments, *options])))

    return run


@pytest.fixture
def config(tmp_path, filled):
    """Return a function that writes a configuration file that names the store; ``lines`` come besides."""

    def write(*lines):
        file = tmp_path / "edge.toml"
        file.write_text("\n".join([f'store = "{filled.root}"', f'release_key = "{filled.key}"', *lines]))
        return file

    return write


def damage(store, name):
    with (store.root / "releases" / name / "model.onnx").open("ab") as file:
        file.write(b"\0")


def test_the_list_shows_every_release_in_aligned_columns(engine):
    outcome = engine("list")
    assert outcome.exit_code == 0
    assert outcome.stdout.splitlines() == [
        "          release  flavour          precision  created               gate",
        "previous  r1       onnxruntime 0.9  fp32       2026-01-02 03:04 UTC  passed",
        "current   r2       onnxruntime 0.9  fp32       2026-01-02 03:04 UTC  not run",
        "          r3       onnxruntime 0.9  fp32       2026-01-02 03:04 UTC  NOT passed",
    ]


@pytest.mark.parametrize(
    ("asked", "delivered", "shown"),
    [
        ("fp16", {"fp32": 51}, "fp32 computation of fp16 weights (asked: fp16)"),
        ("int8", {"fp16": 29, "fp32": 19}, "fp16 and fp32 computation of int8 weights (asked: int8)"),
        ("int8", {"int8": 30, "fp32": 19}, "int8"),
        ("fp16", {}, "fp16"),  # not known
    ],
)
def test_the_list_shows_the_precision_that_is_computed_in(engine, filled, staged, asked, delivered, shown):
    filled.add(staged("r4", contract={"precision": asked}, precision=asked, delivered=delivered))
    (line,) = [line for line in engine("list").stdout.splitlines() if " r4 " in line]
    assert line.split("onnxruntime 0.9")[1].split("2026-01-02")[0].strip() == shown


def test_a_release_that_cannot_be_used_is_listed_with_its_fault(engine, filled):
    (filled.root / "releases" / "r1" / "manifest.sig").write_bytes(bytes(64))
    outcome = engine("list")
    assert outcome.exit_code == 0
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("previous")]
    assert "REFUSED: " in line
    assert "not what the owner of this key signed" in line


def test_no_name_of_a_release_can_forge_a_line_of_the_list():
    lines = table([Listed("x\ncurrent  r9\x1b[31m", None, "fault\nforged", is_current=False, is_previous=False)])
    assert len(lines) == 2
    assert "\n" not in lines[1]
    assert "\x1b" not in lines[1]


def test_a_store_where_nothing_is_in_use_is_listed_and_says_so(engine, filled):
    (filled.root / "current").unlink()
    outcome = engine("list")
    assert outcome.exit_code == 1
    assert "r3" in outcome.stdout
    assert "no release is in use" in outcome.stderr


def test_use_rollback_and_use_again(engine, filled):
    for command, current, previous in (
        (("use", "r3"), "r3", "r2"),
        (("rollback",), "r2", "r3"),
        (("use", "r3"), "r3", "r2"),
    ):
        outcome = engine(*command)
        assert outcome.exit_code == 0
        assert outcome.stdout == f"current: {current}\n"
        assert "restart it" in outcome.stderr
        assert (filled.current(), filled.previous()) == (current, previous)


def test_a_release_is_added(engine, filled, staged):
    folder = staged("r4")
    outcome = engine("add", folder)
    assert (outcome.exit_code, outcome.stdout) == (0, "added: r4\n")
    filled.verify("r4")
    again = engine("add", folder)
    assert again.exit_code == 1
    assert "a release never changes" in again.stderr


def test_a_release_is_removed_without_a_question_and_what_is_in_use_is_not(engine, filled):
    folder = filled.root / "releases" / "r3"
    mib = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    outcome = engine("remove", "r3")
    assert (outcome.exit_code, outcome.stdout) == (0, f"removed: r3, {mib:.1f} MiB\n")
    assert not folder.exists()
    for name in ("r1", "r2"):
        kept = engine("remove", name)
        assert (kept.exit_code, kept.stdout) == (1, "")
        assert "and stays" in kept.stderr
        filled.verify(name)


NOT_THERE = [("use", "r9"), ("use", "../r1"), ("verify", "r9"), ("remove", "r9"), ("add", "/nowhere")]


@pytest.mark.parametrize("command", NOT_THERE)
def test_what_is_not_there_is_refused(engine, filled, command):
    outcome = engine(*command)
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert command[1] in outcome.stderr
    assert filled.current() == "r2"


def test_a_damaged_release_is_not_used(engine, filled):
    damage(filled, "r3")
    outcome = engine("use", "r3")
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith("stopped: ")
    assert "model.onnx: is not the file that its manifest names" in outcome.stderr
    assert filled.current() == "r2"


def test_verify_looks_at_one_or_at_all_and_names_what_is_broken(engine, filled):
    whole = engine("verify")
    assert (whole.exit_code, whole.stdout) == (0, "intact: r1\nintact: r2\nintact: r3\n")
    damage(filled, "r2")
    outcome = engine("verify")
    assert (outcome.exit_code, outcome.stdout) == (1, "intact: r1\nintact: r3\n")
    assert "r2/model.onnx: is not the file that its manifest names" in outcome.stderr
    assert engine("verify", "r1").exit_code == 0
    assert engine("verify", "r2").exit_code == 1


def test_keys_are_made_and_never_replaced(tmp_path):
    arguments = ["engine", "keygen", str(tmp_path / "site"), str(tmp_path / "site.pub")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    first = (tmp_path / "site").read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "keys are never replaced" in again.stderr
    assert (tmp_path / "site").read_bytes() == first


# --- which store is meant ---


def test_the_store_of_a_configuration_is_meant(config, filled):
    outcome = CliRunner().invoke(app, ["engine", "use", "r3", "--config", str(config())])
    assert outcome.exit_code == 0
    assert filled.current() == "r3"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no store is named"),
        (["--store", "{store}"], "no store is named"),
        (["--key", "{key}"], "no store is named"),
        (["--config", "{config}", "--store", "{store}"], "two stores are named"),
        (["--config", "{config}", "--key", "{key}"], "two stores are named"),
        (["--config", "{none}"], "names no store; add store and release_key"),
        (["--config", "/nowhere.toml"], "cannot be read"),
        (["--store", "{store}", "--key", "{store}/no.pub"], "key cannot be read"),
        (["--store", "{store}", "--key", "{config}"], "not a public key"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["use", "r3"], ["rollback"], ["verify"], ["add", "{store}/releases/r3"]])
def test_a_store_that_is_not_named_as_it_should_be_is_misuse(config, filled, tmp_path, command, options, said):
    (tmp_path / "none.toml").write_text("threads = 1")
    names = {"store": filled.root, "key": filled.key, "config": config(), "none": tmp_path / "none.toml"}
    outcome = CliRunner().invoke(app, ["engine", *(text.format(**names) for text in [*command, *options])])
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert (filled.current(), filled.previous()) == ("r2", "r1")


# --- the room opens what is in use ---


def test_images_are_processed_with_the_release_in_use(landmarknet_edge, config, samples, tmp_path):
    image = shutil.copy(sorted(samples.glob("*.dcm"))[0], tmp_path)
    done = landmarknet_edge("process", image, "--config", config(), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["provenance"]["release"] == "r2"
    assert "warning: release r2 (onnxruntime) does not fit this machine: library" in done.stderr


@pytest.mark.parametrize("policy", ["refuse", "fallback", "serve"])
def test_the_service_ends_with_78_where_the_release_in_use_was_altered(
    landmarknet_edge, config, filled, tmp_path, policy
):
    damage(filled, "r2")
    settings = config(f'stale = "{policy}"', "[[drop_folder]]", f"path = '{tmp_path / 'portal'}'")
    done = landmarknet_edge("watch", "--config", settings, "--once", cwd=tmp_path)
    assert done.returncode == 78
    assert "r2/model.onnx: is not the file that its manifest names" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_service_asks_for_a_rebuild_for_a_part_and_not_again_for_another_release(
    landmarknet_edge, config, filled, tmp_path
):
    (tmp_path / "drop").mkdir()
    state = tmp_path / "state"
    settings = config('stale = "rebuild"', f"state_dir = '{state}'", "[[drop_folder]]", f"path = '{tmp_path}/drop'")
    for release, asks in (("r2", 1), ("r3", 0)):  # both of another library
        filled.use(release)
        done = landmarknet_edge("watch", "--config", settings, "--once", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("a rebuild is asked for") == asks
        assert (state / "rebuild-wanted").read_text() == f"library {onnxruntime.__version__}\n"


@pytest.fixture
def foreign(filled, staged):
    """Let the store use a release that TensorRT compiled on a machine that is not this one."""
    flavour = {"flavour": "tensorrt"}
    filled.add(staged("plan-1", contract=flavour, **flavour, flavour_version="0.1", gpu="No Such GPU"))
    filled.use("plan-1")


@pytest.mark.usefixtures("foreign")
def test_the_service_ends_with_78_where_a_plan_does_not_fit_the_machine(landmarknet_edge, config, tmp_path):
    settings = config("[[drop_folder]]", f"path = '{tmp_path / 'portal'}'")
    done = landmarknet_edge("watch", "--config", settings, "--once", cwd=tmp_path)
    assert done.returncode == 78
    assert "tensorrt" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("foreign")
def test_the_service_falls_back_where_it_may_and_logs_it(landmarknet_edge, config, samples, tmp_path):
    (tmp_path / "drop").mkdir()
    shutil.copy(sorted(samples.glob("*.dcm"))[0], tmp_path / "drop" / "X.dcm")
    lines = ('stale = "fallback"', "settle_s = 0.1", "sweep_s = 0.2", "[[drop_folder]]", f"path = '{tmp_path}/drop'")
    done = landmarknet_edge("watch", "--config", config(*lines), "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (warned,) = [line for line in done.stderr.splitlines() if "level=warning" in line]
    assert "in place of release plan-1" in warned
    result = json.loads((tmp_path / "drop" / "X.landmarks.json").read_text())
    assert result["provenance"]["release"] == read_contract(SHIPPED_RELEASE / "contract.json")[0].release
