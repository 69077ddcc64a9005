import contextlib
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.config import ClinicHours, Config, DropFolderConfig, PageConfig, read_config
from edge.config_mends import EXAMPLES
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
        ("[[drop_folder]]\npath = 'incoming'", "drop_folder.0.path: give an absolute path"),
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
        ("store = 's'\nrelease_key = '/k'", "store: give an absolute path"),
        ("store = '/s'\nrelease_key = 'k'", "release_key: give an absolute path"),
        ("stale = 'ignore'", "stale: Input should be 'refuse', 'fallback', 'serve' or 'rebuild'"),
        ("spatial_registration = true", "spatial_registration needs references"),
        (f"[[reference_rule]]\nimage_name = 'X'\nreference = '{'a' * 64}'", "reference_rule needs references"),
        (
            "[[reference_rule]]\nimage_name = '['\nreference = 'KEY'",
            "image_name: no regular expression",
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


IN_FOLDER = "[[drop_folder]]\npath = '/a'\n"
HOURS = f"{IN_FOLDER}[[drop_folder.clinic_hours]]\n"


@pytest.mark.parametrize(
    ("text", "do"),
    [
        ("[[drop_folder]]\nevents = true", '.path: Field required; add the line path = "/srv/portal/room1"'),
        ("release = 7", 'write an absolute path in quotes: release = "/var/lib'),
        ("state_dir = 'state'", "give an absolute path"),
        ("settle_s = '2'", "write a number without quotes: settle_s = 2.0"),
        ("read_s = 0", "greater than 0; write a number without quotes: read_s = 15.0"),
        ("sweep_s = inf", "write a number without quotes: sweep_s = 5.0"),
        (f"{IN_FOLDER}settle_s = 0", "greater than 0; write a number without quotes: settle_s = 2.0"),
        ("threads = 1.5", "write a whole number without quotes: threads = 1"),
        ("keep_days = 0", "greater than or equal to 1; write a whole number from there on: keep_days = 400"),
        ("metrics_port = 70000", "less than or equal to 65535; write a whole number up to there: metrics_port = 9464"),
        ("overlay = 'yes'", "write true or false without quotes: overlay = true"),
        ("stale = 'ignore'", "'serve' or 'rebuild'; choose one of these, in quotes: stale = \"refuse\""),
        ("constancy_at = '25:00'", "write a local time, hour and minute with two digits: constancy_at = 05:00:00"),
        ("constancy_at = 5", "constancy_at: 5 is no time of day; write hour and minute with two digits"),
        ("constancy_at = ['05:00']", "write a local time, hour and minute with two digits: constancy_at = 05:00:00"),
        (f"{HOURS}begin = 8\nend = 17:00:00", "drop_folder.0.clinic_hours.0.begin: 8 is no time of day"),
        (f"{HOURS}begin = 08:00:00", "clinic_hours.0.end: Field required; add the line end = 17:00:00"),
        (f"{HOURS}begin = 17:00:00\nend = 08:00:00", "clinic_hours.0: end must be after begin, on the same day; write"),
        (f"{HOURS}begin = 08:00:00\nend = 17:00:00\ndays = []", 'name at least one: days = ["mon", "tue"'),
        (f"{HOURS}begin = 08:00:00\nend = 17:00:00\ndays = ['monday']", "or 'sun'; choose one of these, in quotes"),
        (f"{HOURS}begin = 08:00:00\nend = 17:00:00\nsilence = 3", "clinic_hours.0.silence: did you mean silence_min?"),
        ("[drop_folder]\npath = '/a'", "begin it with [[drop_folder]], and below it path ="),
        ("drop_folder = ['/a']", "begin it with [[drop_folder]], and below it path ="),
        (f"{IN_FOLDER}clinic_hours = '8-17'", "begin it with [[drop_folder.clinic_hours]], and below it begin ="),
        (f"{IN_FOLDER}[[drop_folder]]\npath = '/a/b'", "would both write below /a/b; give each a folder"),
        (f"state_dir = '/a'\n{IN_FOLDER}", "state_dir /a lies in /a, where images or results are; name another folder"),
        (b"release = '/\xff'", "correct it there: save the file as UTF-8"),
        ("settle_s = 1\nsettle_s = 2", "correct it there: the key is there twice: keep one"),
        ("[a]\n[a]", "correct it there: the heading is there twice"),
        ("[drop_folder]\n[[drop_folder]]", "correct it there: "),
        ("settle_s 1", "correct it there: write key = value, one to a line"),
        ("settle_s = 2 s", "correct it there: end the line after the value; a comment begins with #"),
        ("settle_s = soon", 'correct it there: text stands in "quotes", numbers and true or false without'),
        ("overlay = True", 'correct it there: text stands in "quotes", numbers and true or false without'),
        ('release = "/srv', 'correct it there: close the "quote" on its line'),
        ("release = '/srv\nthreads = 1", "correct it there: close "),
        (r'release = "C:\portal"', "correct it there: write a path with \\ in 'single quotes'"),
        ("[[drop_folder]\npath = '/a'", "correct it there: close the heading with as many brackets"),
        ("drop_folder = [1", "correct it there: close the bracket"),
    ],
)  # fmt: skip
def test_each_kind_of_error_says_what_to_write(tmp_path, text, do):
    assert do in complaint(tmp_path, text)


def test_every_example_is_a_line_that_a_configuration_can_hold(tmp_path):
    not_a_line = {"drop_folder", "clinic_hours", "page", "store", "release"}
    single = [line for key, line in EXAMPLES.items() if key not in not_a_line]
    of_folder = [line for line in single if line.split(" = ")[0] in DropFolderConfig.model_fields]
    of_hours = [line for line in single if line.split(" = ")[0] in ClinicHours.model_fields]
    of_page = [line for line in single if line.split(" = ")[0] in PageConfig.model_fields]
    of_all = [line for line in single if line not in of_folder + of_hours + of_page] + [EXAMPLES["store"]]
    hours = "\n".join(["[[drop_folder.clinic_hours]]", *of_hours])
    assert (
        read(tmp_path, "\n".join([*of_all, "[page]", *of_page, "[[drop_folder]]", *of_folder, hours]))
        .drop_folder[0]
        .clinic_hours
    )
    assert read(tmp_path, EXAMPLES["release"]).release


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
