"""What lies where a file's result should, as the view of one image shows it and its files are served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.errors import ResultsNotWritable
from edge.page.image_model import understood
from edge.page.sources import WITH_RESULT, Seen, Sources
from edge.results.document import Result
from edge.results.publish import read_result


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
