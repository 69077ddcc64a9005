"""What a recipe has to say, what the command says where it does not, and what it says while it builds."""

import io
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from build_engine.cli import app
from build_engine.progress import ConsoleProgress, followed
from build_engine.recipe import Recipe, RecipeError, read_recipe
from edge.manifest import PLAIN_NAME
from edge.signature import generate_key

MINIMAL = 'release = "r"\ncheckpoint = "c"\noutput = "o"\ngolden_images = []\n'


@pytest.fixture
def recipe(tmp_path):
    return Recipe(release="test", checkpoint=tmp_path / "c", output=tmp_path / "o", golden_images=(), kinds=())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("release = ", "not TOML"),
        ('release = "x"', "checkpoint: Field required"),
        ("colour = 1", "colour: Extra inputs"),
    ],
)
def test_a_wrong_recipe_says_which_entry(tmp_path, text, said):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=said):
        read_recipe(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": None, "store": None}, "give either"),
        ({"precision": "int8"}, r"needs \[calibration\]"),
        ({"precision": "fp16"}, r"needs \[gate\]"),
        ({"engine": {"flavour": "tensorrt"}}, r"flavour tensorrt needs \[gate\].*in fp32 too"),
        ({"engine": {"flavour": "tensorrt_rtx"}}, r"flavour tensorrt_rtx needs \[gate\]"),
        ({"release": "site 2026"}, "'site 2026' is no name for a release"),
        ({"release": "../r"}, "no name for a release"),
        ({"release": "r" * 61}, "no name for a release"),
    ],
)
def test_a_recipe_that_lacks_what_it_needs_says_so(recipe, changes, said):
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(recipe.model_dump() | changes)


def test_a_stamped_recipe_names_the_minute_in_universal_time(recipe):
    at = datetime(2026, 11, 23, 1, 5, tzinfo=timezone(timedelta(hours=2)))
    assert recipe.stamped(at).release == f"{recipe.release}-20261122T2305Z"


def test_a_rebuild_that_is_stamped_has_a_name_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "recipe.toml"
    path.write_text('release = "r"\ncheckpoint = "c"\noutput = "o"\ngolden_images = []\nkinds = []')
    built = []
    monkeypatch.setattr("build_engine.build.build_release", lambda asked, *_: built.append(asked.release) or tmp_path)
    for options in ([], ["--stamp"], ["--release", "mine", "--stamp"]):
        assert CliRunner().invoke(app, [str(path), *options]).exit_code == 0
    assert built[0] == "r"
    assert re.fullmatch(r"r-\d{8}T\d{4}Z", built[1])
    assert built[2].startswith("mine-")


def test_the_longest_name_of_a_recipe_is_one_that_a_store_takes(recipe):
    at = datetime(2026, 11, 23, 1, 5, tzinfo=UTC)
    longest = Recipe.model_validate(recipe.model_dump() | {"release": "r" * 60}).stamped(at)
    name = longest.model_copy(update={"store": True}).release_id("tensorrt_rtx", "int8")
    assert re.fullmatch(PLAIN_NAME, name)


RECIPE = """
release = "r"
checkpoint = "{folder}/weights.pt"
golden_images = []
kinds = []
[store]
folder = "{folder}/store"
signing_key = "{folder}/site.key"
"""


@pytest.mark.parametrize(
    ("recipe_bytes", "options", "said"),
    [
        (RECIPE.encode(), ["--release", "site 2026"], "'site 2026' is no name for a release"),
        (RECIPE.encode(), ["--flavour", "tensorrt"], "needs [gate]"),
        (RECIPE.encode(), [], "weights.pt cannot be loaded"),
        (RECIPE.replace("site.key", "gone.key").encode(), [], "gone.key: key cannot be read"),
        (b"release = '\xe9'", [], "not TOML"),
        (b"engine = 'fast'", ["--flavour", "tensorrt"], "engine: Input should be"),
    ],
)
def test_a_refusal_is_one_line_that_says_not_built(tmp_path, recipe_bytes, options, said):
    generate_key(tmp_path / "site.key", tmp_path / "site.pub")
    (tmp_path / "weights.pt").write_bytes(b"damaged")
    path = tmp_path / "recipe.toml"
    path.write_bytes(recipe_bytes.replace(b"{folder}", str(tmp_path).encode()))
    outcome = CliRunner().invoke(app, [str(path), *options])
    assert outcome.exit_code == 1
    assert isinstance(outcome.exception, SystemExit)
    assert outcome.stderr.startswith("not built: ")
    assert said in outcome.stderr
    assert outcome.stdout == ""


def test_kinds_may_stand_in_a_file_of_their_own(tmp_path):
    (tmp_path / "kinds.toml").write_text('[[kinds]]\nkind = "louis_angle"\nthreshold = 0.4\nat_most = 1\n')
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'release = "r"\ncheckpoint = "c"\noutput = "o"\ngolden_images = []\nkinds = "{tmp_path}/kinds.toml"'
    )
    assert [k.kind for k in read_recipe(path).kinds] == ["louis_angle"]


def test_the_command_s_flavour_takes_the_place_of_the_recipe_s_and_keeps_its_other_settings(tmp_path):
    path = tmp_path / "recipe.toml"
    gate = '[gate]\nimages = "i"\npatients = ["p"]\n'
    path.write_text(f'{MINIMAL}kinds = []\n{gate}[engine]\nflavour = "tensorrt"\nbuilder_level = 1\n')
    engine = read_recipe(path, flavour="tensorrt_rtx").engine
    assert (engine.flavour, engine.builder_level) == ("tensorrt_rtx", 1)


# --- what is seen while it builds ---


def compiled_by(console):
    with ConsoleProgress(console) as progress:
        progress.phase("Building the engine", 2)
        progress.phase("Tactics", 30)
        progress.step("Tactics", 15)
        progress.finished("Tactics")
        progress.step("Building the engine", 1)
        progress.finished("Building the engine")
    return console.file.getvalue()


def test_in_a_log_each_phase_is_a_line():
    said = compiled_by(Console(file=io.StringIO(), force_terminal=False))
    assert said == "Building the engine: 2 steps\nTactics: 30 steps\n"


def test_on_a_terminal_phases_are_bars_and_leave_no_line():
    said = compiled_by(Console(file=io.StringIO(), force_terminal=True, width=80))
    assert "steps" not in said
    assert "\x1b[2K" in said, "a bar is drawn and erased"


class Heard:
    def __init__(self):
        self.said = []

    def phase(self, name, steps):
        self.said.append((name, steps))

    def step(self, name, done):
        self.said.append((name, done))

    def finished(self, name):
        self.said.append(name)


def test_items_are_steps_of_a_phase_that_ends_with_them_or_with_an_error():
    heard = Heard()
    assert list(followed("ab", "verify", 2, heard)) == ["a", "b"]
    assert heard.said == [("verify", 2), ("verify", 1), ("verify", 2), "verify"]
    broken = Heard()
    with pytest.raises(ZeroDivisionError):
        list(followed((1 // 0 for _ in "a"), "verify", 1, broken))
    assert broken.said == [("verify", 1), "verify"]
