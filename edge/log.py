"""The log, for the person on call: one line per event, key=value, to standard error (journald keeps it).

``image=`` carries a file name; nothing that stands inside a DICOM file is ever logged.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")


def open_log(stream: TextIO | None = None, level: str = "info") -> FilteringBoundLogger:
    """Return a logger that writes events of ``level`` and above to ``stream``, or to standard error.

    ``level`` is one of `LEVELS`. Nothing global is configured: whoever logs is given the logger.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _printable,
            structlog.processors.LogfmtRenderer(key_order=["time", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        context_class=dict,
    )
    return logger


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    r"""Keep an event on its line: file names may hold control characters, and bytes that are not UTF-8 (``\xNN``)."""
    return {key: _on_one_line(value) if isinstance(value, str) else value for key, value in event.items()}


def _on_one_line(text: str) -> str:
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
