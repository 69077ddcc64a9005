"""What lies where a file's result should, as the view of one image shows it and its files are served."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from edge.errors import ResultsNotWritable
from edge.page.sources import WITH_RESULT, Seen, Sources
from edge.results.document import RESULT_SCHEMA, Result
from edge.results.publish import read_result

MENDS: Final[dict[str, Callable[[], object]]] = {"missing": lambda: None, "tuple_type": list, "dict_type": dict}
REQUIRED_LATER = 4  # rounds in which an older or newer document of the same schema is made up to this model


@dataclass(frozen=True, eq=False)
class Found:
    """``result`` is text where it cannot be shown, which says why; ``document`` is it as its model writes it."""

    result: Result | str | None
    document: dict[str, Any] | None = None


def found_result(sources: Sources, seen: Seen) -> Found:
    """Return what lies there; entries of a newer version are passed over."""
    if seen.state not in WITH_RESULT:
        return Found(None)
    document = sources.result(seen)
    if document is not None:
        return Found(Result.model_validate(document), document)
    try:
        return _found(read_result(seen.result_path), seen)
    except ResultsNotWritable as exc:
        return Found(str(exc))


def _found(document: dict[str, Any] | None, seen: Seen) -> Found:
    result = None if document is None else understood(document)
    if not isinstance(result, Result):
        return Found(result)
    if not _is_of(result, seen):
        return Found("it belongs to another image, or to another version of this file")
    return Found(result, result.model_dump(mode="json", by_alias=True))


def _is_of(result: Result, seen: Seen) -> bool:
    return result.image.name == seen.name and seen.sha256 in {None, result.image.sha256}


def understood(document: Mapping[str, Any]) -> Result | str:
    """Return a document as a result, or why it is not shown.

    Within one schema entries are added: those that are not known are passed over, missing ones are null or empty.
    """
    if (schema := document.get("schema")) != RESULT_SCHEMA:
        return f"its schema is {str(schema)[:80]!r}, and this version shows {RESULT_SCHEMA}"
    try:
        json.dumps(document, allow_nan=False)
        result = _made_up(deepcopy(dict(document)))
        if isinstance(result, Result):  # "1e999" is text, and becomes a number
            json.dumps(result.model_dump(mode="json"), allow_nan=False)
    except RecursionError:
        return "it is nested too deep"
    except ValueError:
        return "it has a number that is none"
    return result


def _made_up(document: dict[str, Any]) -> Result | str:
    for _ in range(REQUIRED_LATER):
        try:
            return Result.model_validate(document)
        except ValidationError as exc:
            errors = exc.errors()
            if not all(_mended(document, error["type"], error["loc"]) for error in errors):
                return f"{'.'.join(map(str, errors[0]['loc']))[:80]}: {errors[0]['msg'][:80]}"
    return "it is not built as this version knows it"


def _mended(document: Any, error: str, loc: Sequence[int | str]) -> bool:
    """Take an unknown entry out, or put in what a missing one means; tell whether that could be done."""
    try:
        for part in loc[:-1]:
            document = document[part]
    except (LookupError, TypeError):
        return False
    if error == "extra_forbidden" and isinstance(document, dict):
        del document[loc[-1]]
        return True
    absent = error == "missing" or (isinstance(document, dict) and document.get(loc[-1], "") is None)
    if error in MENDS and absent and isinstance(document, dict):
        document[loc[-1]] = MENDS[error]()
        return True
    return False
