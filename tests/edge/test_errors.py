import inspect
import re

import pytest

import edge.errors
from edge.errors import EdgeError, FileTooLarge, NotAnImage, Refused, ResultNameTaken, Stop, TryAgain


def family(kind):
    """Return an error and all of ours below it, depth first; those that a test made are not ours."""
    ours = [child for child in kind.__subclasses__() if not child.__module__.startswith("test")]
    return [kind] + [one for child in ours for one in family(child)]


def drawn_tree():
    """Return (name, depth) of each error in the drawing of the module's docstring."""
    lines = re.findall(r"^    ((?:[│├└─ ]{4})*)(\w+)", edge.errors.__doc__, re.MULTILINE)
    return [(name, len(indent) // 4) for indent, name in lines if hasattr(edge.errors, name)]


def depth(kind):
    return kind.__mro__.index(EdgeError)


def test_the_drawing_shows_every_error_in_its_place():
    assert drawn_tree() == [(kind.__name__, depth(kind)) for kind in family(EdgeError)]


def test_no_error_is_defined_elsewhere():
    assert {kind.__module__ for kind in family(EdgeError)} == {"edge.errors"}


def test_every_error_says_what_it_stands_for():
    for kind in family(EdgeError):
        assert inspect.getdoc(kind) != inspect.getdoc(kind.__mro__[1])


def test_there_are_three_ways_to_go_on():
    assert {kind for kind in family(EdgeError) if depth(kind) == 1} == {Refused, TryAgain, Stop}


def test_only_what_is_no_image_and_what_has_no_name_leaves_no_reason():
    silent = {kind for kind in family(Refused) if not kind.writes_reason}
    assert silent == {FileTooLarge, NotAnImage, ResultNameTaken}


@pytest.mark.parametrize("kind", family(Stop), ids=lambda kind: kind.__name__)
def test_what_no_restart_mends_ends_with_ex_config(kind):
    assert kind.exit_status == 78  # EX_CONFIG of sysexits.h
