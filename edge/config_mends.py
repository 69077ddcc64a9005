"""What to write instead of what a configuration cannot hold: for each kind of error one sentence."""

from __future__ import annotations

from datetime import time
from typing import Any, Final

OTHERWISE: Final = 'text stands in "quotes", numbers and true or false without'
TOML_MENDS: Final = (  # what tomllib or the decoder says, in part, and the first that fits counts
    ("codec can't decode", "save the file as UTF-8"),
    ("Cannot overwrite a value", "the key is there twice: keep one of the two lines"),
    ("Duplicate", "the key is there twice: keep one of the two"),
    ("twice", "the heading is there twice: keep one; what there can be several of stands in [[double brackets]]"),
    ("Cannot mutate", "write the heading the same way each time, what there can be several of in [[double brackets]]"),
    ("Expected '='", "write key = value, one to a line"),
    ("Expected newline", "end the line after the value; a comment begins with #"),
    ("Invalid value", OTHERWISE),
    ("Invalid date", "write a time with two digits for the hour, such as 05:00:00"),
    ("Unterminated string", 'close the "quote" on its line'),
    ('Expected "\'"', "close the 'quote' on its line"),
    ("Unescaped", "write a path with \\ in 'single quotes'"),
    ("Illegal character", "close what is open on the line before, and take out what is not printed"),
    ("Expected ']", "close the heading with as many brackets as open it"),
    ("Unclosed", "close the bracket"),
)
PATH, NUMBER, TIME = "write an absolute path in quotes", "write a number without quotes", "write a local time"
MENDS: Final = {  # by the type of pydantic's error; {} is a line that the file could hold
    "missing": "add the line {}",
    "path_type": f"{PATH}: {{}}",
    "float_type": f"{NUMBER}: {{}}",
    "finite_number": f"{NUMBER}: {{}}",
    "greater_than": f"{NUMBER}: {{}}",
    "int_type": "write a whole number without quotes: {}",
    "greater_than_equal": "write a whole number from there on: {}",
    "less_than_equal": "write a whole number up to there: {}",
    "bool_type": "write true or false without quotes: {}",
    "literal_error": "choose one of these, in quotes: {}",
    "time_parsing": f"{TIME}, hour and minute with two digits: {{}}",
    "time_type": f"{TIME}, hour and minute with two digits: {{}}",
    "too_short": "name at least one: {}",
    "tuple_type": "begin it with {}",
    "model_type": "begin it with {}",
}
EXAMPLES: Final = {  # of keys whose default is none
    "path": 'path = "/srv/portal/room1"',
    "results_dir": 'results_dir = "/srv/landmarks/room1"',
    "state_dir": 'state_dir = "/var/lib/landmarknet-edge"',
    "release": 'release = "/var/lib/landmarknet-engines/plain"',
    "store": 'store = "/var/lib/landmarknet-engines/store"',
    "release_key": 'release_key = "/etc/landmarknet-edge/site.pub"',
    "metrics_port": "metrics_port = 9464",
    "bind": 'bind = "127.0.0.1"',
    "names": 'names = ["linac2.clinic.example"]',
    "certificate": 'certificate = "/etc/landmarknet-edge/page.crt"',
    "key": 'key = "/etc/landmarknet-edge/page.key"',
    "token_file": 'token_file = "/etc/landmarknet-edge/page.token"',
    "page": "[page], and below it enabled = true",
    "begin": "begin = 08:00:00",
    "end": "end = 17:00:00",
    "days": 'days = ["mon", "tue", "wed", "thu", "fri"]',
    "drop_folder": '[[drop_folder]], and below it path = "/srv/portal/room1"',
    "clinic_hours": "[[drop_folder.clinic_hours]], and below it begin = 08:00:00 and end = 17:00:00",
}


def mend_toml(complaint: str) -> str:
    """Return what to do about what the parser of TOML says."""
    return next((mend for said, mend in TOML_MENDS if said in complaint), OTHERWISE)


def mend_value(kind: str, key: str, default: Any) -> str | None:
    """Return what to write for a key, by the type of pydantic's error; None where its message says so itself."""
    return MENDS[kind].format(_line(key, default)) if kind in MENDS else None


def _line(key: str, default: Any) -> str:
    if key in EXAMPLES:
        return EXAMPLES[key]
    if isinstance(default, bool):
        return f"{key} = {str(default).lower()}"
    if isinstance(default, str):
        return f'{key} = "{default}"'
    return f"{key} = {default.isoformat() if isinstance(default, time) else default}"
