import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from edge.log import open_log
status = os.fstat(2)
environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if sys.argv[1] == "journal" else {}
log = open_log(level="debug", environment=environment)
log.debug("a"); log.info("b"); log.warning("c"); log.error("d", reason="two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("e")
"""


def lines(where):
    done = subprocess.run([sys.executable, "-c", SCRIPT, where], check=True, capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if "event=" in line]


def test_lines_tell_the_journal_their_level():
    assert [line[:8] for line in lines("journal")] == [f"<{level}>time=" for level in (7, 6, 4, 3, 3)]


def test_elsewhere_lines_begin_with_their_time():
    assert all(line.startswith("time=") for line in lines("terminal"))


def test_another_stream_than_the_journal_s_is_none():
    # a service whose standard error was redirected to a file inherits the variable all the same
    done = subprocess.run(
        [sys.executable, "-c", "from edge.log import open_log; open_log().error('a')"],
        env=os.environ | {"JOURNAL_STREAM": "1:1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("time=")


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else():
    script = "from edge.log import open_log; log = open_log(); log.error('a'); log.error('b'); print('alive')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert done.stdout == "alive\n"
