import contextlib
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.config import Config, DropFolderConfig, read_config
from edge.errors import BadConfig

FULL = """
settle_s = 1.5
sweep_s = 10
incomplete_after_s = 60.0
release = "/srv/releases/7"
threads = 2
overlay = false

[[drop_folder]]
path = "/srv/linac 1/portal"

[[drop_folder]]
path = "/srv/linac2/portal"
results_dir = "/srv/results/linac2"
"""


def read(tmp_path: Path, text: str | bytes) -> Config:
    file = tmp_path / "edge.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(file)


def complaint(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(BadConfig) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'edge.toml'}: ")
    assert caught.value.exit_status == 78
    return message


def test_a_full_file_is_read(tmp_path):
    assert read(tmp_path, FULL) == Config(
        settle_s=1.5,
        sweep_s=10.0,
        incomplete_after_s=60.0,
        release=Path("/srv/releases/7"),
        threads=2,
        overlay=False,
        drop_folder=(
            DropFolderConfig(path=Path("/srv/linac 1/portal")),
            DropFolderConfig(path=Path("/srv/linac2/portal"), results_dir=Path("/srv/results/linac2")),
        ),
    )


def test_an_empty_file_gives_the_defaults(tmp_path):
    config = read(tmp_path, "")
    assert config == Config()
    assert (config.settle_s, config.sweep_s, config.incomplete_after_s) == (2.0, 5.0, 300.0)
    assert (config.drop_folder, config.release, config.threads, config.overlay) == ((), None, 1, True)
    assert (config.store, config.release_key, config.stale) == (None, None, "refuse")


def test_a_store_is_read_with_its_key_and_policy(tmp_path):
    config = read(tmp_path, "store = '/srv/store'\nrelease_key = '/etc/site.pub'\nstale = 'fallback'")
    assert config == Config(store=Path("/srv/store"), release_key=Path("/etc/site.pub"), stale="fallback")


def test_the_config_is_frozen():
    with pytest.raises(ValidationError):
        Config().settle_s = 3.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("setle_s = 1", "unknown key setle_s: did you mean settle_s?"),
        ("thread = 1", "unknown key thread: did you mean threads?"),
        ("colour = 'red'", "unknown key colour: known are drop_folder, settle_s, sweep_s"),
        ("[[drop_folder]]\npath = '/a'\nresult_dir = '/b'", "drop_folder.0.result_dir: did you mean results_dir?"),
        ("[[drop_folder]]\npath = '/a'\nthreads = 1", "threads is for all drop folders; write it above the first"),
        ("[[drop_folder]]\nresults_dir = '/a'", "drop_folder.0.path: Field required"),
        ("[[drop_folder]]\npath = 'incoming'", "drop_folder.0.path: Value error, give an absolute path"),
        ("drop_folder = '/a'", "drop_folder: Input should be"),
        ("settle_s = 0", "settle_s: Input should be greater than 0"),
        ("settle_s = '2'", "settle_s: Input should be a valid number"),
        ("sweep_s = inf", "sweep_s: Input should be a finite number"),
        ("sweep_s = nan", "sweep_s: Input should be a finite number"),
        ("threads = 0", "threads: Input should be greater than or equal to 1"),
        ("threads = 1.5", "threads: Input should be a valid integer"),
        ("store = '/s'", "a store needs release_key"),
        ("release_key = '/k'", "release_key is for a store"),
        ("store = '/s'\nrelease_key = '/k'\nrelease = '/r'", "release and store name two releases"),
        ("store = 's'\nrelease_key = '/k'", "store: Value error, give an absolute path"),
        ("store = '/s'\nrelease_key = 'k'", "release_key: Value error, give an absolute path"),
        ("stale = 'ignore'", "stale: Input should be 'refuse', 'fallback', 'serve' or 'rebuild'"),
        ("spatial_registration = true", "spatial_registration needs references"),
        (f"[[reference_rule]]\nimage_name = 'X'\nreference = '{'a' * 64}'", "reference_rule needs references"),
        (
            "[[reference_rule]]\nimage_name = '['\nreference = 'KEY'",
            "image_name: Value error, no regular expression",
        ),
        ("[[reference_rule]]\nimage_name = 'X'\nreference = 'KEY'", "reference_rule.0.reference: String should match"),
        ("[couch]\nname = 'room 1'\nlateral = 2", "couch.lateral: Input should be 1 or -1"),
        ("overlay = 'yes'", "overlay: Input should be a valid boolean"),
        ("settle_s = 1\nsettle_s = 2", "not TOML"),
        ("settle_s 1", "not TOML"),
        (b"release = '/\xff'", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_what_to_do(tmp_path, text, says):
    assert says in complaint(tmp_path, text)


def test_all_wrong_keys_are_named_at_once(tmp_path):
    message = complaint(tmp_path, "setle_s = 1\nthreads = 0")
    assert "setle_s" in message
    assert "threads" in message


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"edge.toml: cannot be read .No such file"):
        read_config(tmp_path / "edge.toml")


@pytest.mark.parametrize(
    "second",
    [
        "path = '/srv/a'",
        "path = '/srv/a/inner'",
        "path = '/srv'",
        "path = '/srv/b/../a'",
        "path = '/srv/b'\nresults_dir = '/srv/a/results'",
        "path = '/srv/b'\nresults_dir = '/srv/results'",
        "path = '/srv/results'",
    ],
)
def test_drop_folders_whose_results_could_meet_are_refused(tmp_path, second):
    first = "[[drop_folder]]\npath = '/srv/a'\nresults_dir = '/srv/results'\n"
    assert "would both write below" in complaint(tmp_path, f"{first}[[drop_folder]]\n{second}\n")


def test_a_results_folder_inside_its_own_drop_folder_is_fine(tmp_path):
    read(tmp_path, "[[drop_folder]]\npath = '/srv/a'\nresults_dir = '/srv/a/results'")


def test_the_hash_ignores_spelling_order_and_defaults(tmp_path):
    one = read(tmp_path, "threads = 2\nsettle_s = 2").sha256()
    assert one == read(tmp_path, "settle_s = 2.0 # the default\nthreads = 2").sha256() == Config(threads=2).sha256()
    assert len(one) == 64
    assert set(one) <= set("0123456789abcdef")


def test_the_hash_notices_every_setting(tmp_path):
    settings = ["settle_s = 1", "sweep_s = 1", "incomplete_after_s = 1", "release = '/r'", "threads = 2"]
    store = "store = '/s'\nrelease_key = '/k'"
    settings += [store, store.replace("/s", "/t"), store.replace("/k", "/l"), f"{store}\nstale = 'serve'"]
    settings += [
        "stale = 'serve'",
        "overlay = false",
        "[[drop_folder]]\npath = '/a'",
        "[[drop_folder]]\npath = '/a'\nresults_dir = '/b'",
    ]
    hashes = {read(tmp_path, text).sha256() for text in ["", *settings]}
    assert len(hashes) == len(settings) + 1


def test_a_path_that_is_not_utf8_has_a_hash():
    assert Config(release=Path("/srv/\udcfc")).sha256() != Config().sha256()


@settings(deadline=None)  # a loaded machine is no fault
@given(st.text(max_size=60))
def test_any_text_gives_a_config_or_a_bad_config(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(BadConfig):
        read_config(file)


@pytest.mark.parametrize(("written", "meant"), [('"never"', None), ("06:30:00", time(6, 30)), ('"06:30"', time(6, 30))])
def test_the_daily_run_of_the_golden_images_can_be_moved_and_forgone(tmp_path, written, meant):
    file = tmp_path / "room.toml"
    file.write_text(f"constancy_at = {written}\n")
    assert read_config(file).constancy_at == meant


@pytest.mark.parametrize("key", ["state_dir", "store", "release", "references"])
@pytest.mark.parametrize("place", ["/data/portal", "/data/portal/deep/down", "/data/results"])
def test_our_own_folders_may_not_lie_where_images_or_results_are(key, place):
    # the daemon would claim its own journal, and closing that copy would drop SQLite's locks
    folders = (DropFolderConfig(path=Path("/data/portal"), results_dir=Path("/data/results")),)
    more = {"release_key": Path("/etc/site.pub")} if key == "store" else {}
    with pytest.raises(ValidationError, match=f"{key} {place} lies in"):
        Config(drop_folder=folders, **{key: Path(place)}, **more)
    Config(drop_folder=folders, **{key: Path("/var/lib/own")}, **more)
