"""Every system call with which the daemon claims, records and publishes one image is killed, and fails, once."""

import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.faults.accounts import Account
from tests.faults.room import Room, wait_until

TOUCHING = "openat,read,write,pwrite64,ftruncate,fsync,fdatasync,flock,renameat,renameat2,rename,unlink,unlinkat,statfs"
HARM = {"killed": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


@dataclass(frozen=True)
class Call:
    """The ``number``-th call of that ``name`` in the supervisor's main thread."""

    name: str
    number: int
    on_spool: bool


def calls_of_one_publish(room, trace) -> list[Call]:
    """Return what the daemon calls on its folders from the claim of an image until its last record."""
    reset(room)
    done = room.run_once(["strace", "-y", "-e", f"trace={TOUCHING}", "-o", str(trace)])
    assert done.returncode == 0, done.stderr
    lines, numbers, calls = trace.read_text().splitlines(), Counter(), []
    begins = next(i for i, line in enumerate(lines) if "RI 1.dcm" in line)
    ends = max(i for i, line in enumerate(lines) if "audit.jsonl" in line)
    ends += next(i for i, line in enumerate(lines[ends:]) if line.startswith("fdatasync"))
    for index, line in enumerate(lines):
        if name := re.match(r"\w+(?=\()", line):
            numbers[name[0]] += 1
            if begins <= index <= ends and str(room.folder) in line:
                calls.append(Call(name[0], numbers[name[0]], f"{room.state}/spool" in line))
    return calls


def reset(room):
    """Begin anew with one image."""
    for folder in (room.drop, room.state):
        shutil.rmtree(folder)
        folder.mkdir()
    room.feed(1)


@pytest.fixture(scope="module")
def calls(tmp_path_factory, release):
    """Return the calls of one publish: the same ones in every room."""
    folder = tmp_path_factory.mktemp("calls")
    return calls_of_one_publish(Room(folder / "room", release), folder / "trace") if can_trace() else []


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.counts(1, 1_000)
def test_no_system_call_of_a_publish_can_fail_so_that_a_result_is_lost_torn_or_doubled(
    room, calls, record, tmp_path, harm, count
):
    fault = f"each system call of a publish {harm}"
    record.demand(calls, fault, "needs strace, and to be allowed to trace")
    trace = tmp_path / "trace"
    account, hits, ends, recovery_s = Account(room), Counter(), Counter(), 0.0
    step = max(1, len(calls) // count)
    chosen = calls[step // 2 :: step][:count]
    for call in chosen:
        ends[run_with(room, call, harm, trace)] += 1
        hits[hit(trace.read_text(), call)] += 1
        before = {path: path.read_bytes() for path in room.results()}
        began_s = time.monotonic()
        room.start()
        room.wait_for_results()
        recovery_s = max(recovery_s, time.monotonic() - began_s)
        wait_until(lambda: room.journal("SELECT count(*) FROM files WHERE state = 'done'") == [(1,)])
        assert room.end() == 0
        account.doubled += [path.name for path, data in before.items() if path.read_bytes() != data]
        account.settle({"torn": [], "changed": [], "looks": 1})
        account.demand_nothing_wrong()
    note = f"{len(calls)} calls in one publish, {len(hits)} different ones hit; {ended(ends)}"
    record(fault, len(chosen), account, recovery_s, note)


@pytest.mark.counts(1, 10)
def test_a_state_disk_that_ails_for_a_moment_is_no_reason_to_stop_for_good(room, calls, record, tmp_path, count):
    """Journal and audit log wait for such a disk; the spool once ended the daemon with status 78."""
    fault = "EIO in the spool"
    record.demand(calls, fault, "needs strace, and to be allowed to trace")
    of_spool = [call for call in calls if call.on_spool and call.name != "unlink"]
    assert of_spool
    ends = Counter(run_with(room, call, "EIO", tmp_path / "trace") for call in of_spool[:count])
    assert 78 not in ends
    record(fault, len(of_spool[:count]), None, None, ended(ends))


def run_with(room, call, harm, trace) -> int:
    """Let the daemon process one image while one of its calls is harmed; return its exit status."""
    reset(room)
    options = ["-y", "-e", f"trace={call.name}", "-e", f"inject={call.name}:{HARM[harm]}:when={call.number}"]
    return room.run_once(["strace", *options, "-o", str(trace)]).returncode


def ended(statuses: Counter[int]) -> str:
    """Say how the runs ended: 78 is a stop that systemd takes for final."""
    return ", ".join(f"{number} ended with {status}" for status, number in sorted(statuses.items()))


def can_trace() -> bool:
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0


def hit(trace: str, call: Call) -> str:
    """Return the call that was harmed, as far as it is the same in every run."""
    lines = [line for line in trace.splitlines() if line.startswith(f"{call.name}(")]
    last = lines[min(call.number, len(lines)) - 1] if lines else ""
    return f"{call} {re.sub(r'[0-9a-f]{16}', '*', last)[:150]}"
