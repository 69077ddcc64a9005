"""The log, for the person on call: one line per event, key=value, to standard error (journald keeps it).

``image=`` carries a file name; nothing that stands inside a DICOM file is ever logged.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
SYSLOG_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3}


def open_log(
    stream: TextIO | None = None, level: str = "info", environment: Mapping[str, str] = os.environ
) -> FilteringBoundLogger:
    """Return a logger that writes events of ``level`` and above to ``stream``, or to standard error.

    ``level`` is one of `LEVELS`. Nothing global is configured: whoever logs is given the logger. To the journal each
    line says its level as ``<3>`` to ``<7>`` (sd-daemon(3)), so that ``journalctl -p warning`` finds it.
    """
    to_journal = stream is None and _is_journal(sys.stderr, environment)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(_Unfailing(stream or sys.stderr)),  # type: ignore[arg-type]  # asks for more than it uses
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _printable,
            structlog.processors.LogfmtRenderer(key_order=["time", "level", "event"], bool_as_flag=False),
            *([_with_syslog_level] if to_journal else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        context_class=dict,
    )
    return logger


class _Unfailing:
    """A stream that may lose a line: a full disk behind standard error must not end the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    r"""Keep an event on its line: file names may hold control characters, and bytes that are not UTF-8 (``\xNN``)."""
    return {key: _on_one_line(value) if isinstance(value, str) else value for key, value in event.items()}


def _on_one_line(text: str) -> str:
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _with_syslog_level(_logger: WrappedLogger, method: str, line: Any) -> str:
    return f"<{SYSLOG_LEVELS.get(method, 3)}>{line}"


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether a stream leads to the journal: systemd.exec(5), $JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
