"""The trends as a table for other programs: one line for each finished image, the first one first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime

from edge.page.trend_rows import TrendRow
from edge.results.document import NOTICE

COLUMNS = tuple(one.name for one in fields(TrendRow) if one.name != "ord")
RISKY = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet would take such a name for a formula


def trends_csv(rows: Iterable[TrendRow], missing: Iterable[str] = ()) -> bytes:
    """Return RFC 4180 CSV in UTF-8, all in quotes. Its last lines say what is missing, and what it is not for."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)  # so that no other separator than ours divides a name
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    writer.writerows([text] for text in (*missing, NOTICE))
    return out.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, str):
        text = "".join(one if one.isprintable() else " " for one in value)
        return f"'{text}" if text.startswith(RISKY) else text
    return str(value)
