"""Make docs/results-format.md of the result's JSON Schema: every entry with its type and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.results.document import json_schema

TARGET = Path(__file__).parent / "results-format.md"
HEAD = """# The result of an image: `X.landmarks.json`

Made by `make schema` of the [JSON Schema](result.schema.json); do not edit. [Examples](examples), signs and frames in
[geometry.md](geometry.md), registration in [references.md](references.md). Decision support for research; not a
medical device.

**For whoever reads it.** The file appears whole, and last: when it is there, so are the files that it lists, with
these hashes. Within `landmarknet-edge/result/1` entries are added, never taken away, renamed or given another meaning
or unit. So pass over entries that you do not know; of an older file take a missing one as null, or as empty; expect
null where the type says so. Whatever is not like that will be called `/2`. Everything but `timing_ms` is the same
each time one machine processes the same file with the same release, configuration and reference; the DICOM outputs,
whose hashes are in `outputs`, also say when the file was first seen.

Pixels are detector pixels, (0, 0) is the centre of the top-left one. Points are x, y. A null millimetre is not zero:
it is not known.
"""


def results_format() -> str:
    """Return the document's text."""
    schema = json_schema()
    parts = [HEAD, *_section("The document", schema)]
    for name, entry in schema["$defs"].items():
        parts += _section(f"{name}", entry)
    return "\n".join(parts) + "\n"


def _section(title: str, entry: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {title}\n\n{entry['description'].splitlines()[0].replace('``', '`')}\n"
    yield "| entry | type | meaning |\n| --- | --- | --- |"
    for name, about in entry["properties"].items():
        yield f"| `{name}` | {_type(about)} | {_meaning(about)} |"


def _meaning(about: dict[str, Any]) -> str:
    return str(about.get("description", "")).replace("|", "\\|")


def _type(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(map(_type, about["anyOf"]))
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in about or "enum" in about:
        return ", ".join(f'"{one}"' for one in about.get("enum", [about.get("const")]))
    if about.get("type") == "array":
        return _array(about)
    if about.get("type") == "object":
        return f"object of {_type(about['additionalProperties'])}"
    return "SHA-256" if "pattern" in about else str(about["type"])


def _array(about: dict[str, Any]) -> str:
    if "prefixItems" in about:
        return f"[{', '.join(map(_type, about['prefixItems']))}]"
    return f"list of {_type(about['items'])}"


if __name__ == "__main__":
    TARGET.write_text(results_format())
