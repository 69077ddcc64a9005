import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.config import Config
from edge.errors import StateUnusable
from edge.service.state import SPOOL, Space, held, holder_of, state_folder
from edge.settle import Patience

# where


@pytest.mark.parametrize(
    ("state_dir", "environment", "folder"),
    [
        (Path("/srv/state"), {"STATE_DIRECTORY": "/var/lib/a", "XDG_STATE_HOME": "/x"}, "/srv/state"),
        (None, {"STATE_DIRECTORY": "/var/lib/a", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        (None, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        (None, {"XDG_STATE_HOME": "/x"}, "/x/landmarknet-edge"),
        (None, {"XDG_STATE_HOME": "relative"}, "~/.local/state/landmarknet-edge"),
        (None, {}, "~/.local/state/landmarknet-edge"),
    ],
)
def test_the_configuration_goes_before_systemd_and_systemd_before_the_desktop(state_dir, environment, folder):
    assert state_folder(Config(state_dir=state_dir), environment) == Path(folder).expanduser()


def test_asking_where_the_state_lies_makes_nothing(tmp_path):
    assert not state_folder(Config(state_dir=tmp_path / "a"), {}).exists()


# holding


def test_the_state_folder_is_made_for_its_user_alone(tmp_path):
    with held(tmp_path / "a" / "state") as folder:
        assert (folder / SPOOL).is_dir()
        assert [path.stat().st_mode & 0o077 for path in (folder, folder / SPOOL)] == [0, 0]
    with held(folder):
        pass  # what is there is taken as it is


def test_a_second_daemon_on_one_state_folder_is_refused_and_told_who_has_it(tmp_path):
    holds = (
        "import sys; from pathlib import Path; from edge.service.state import held\n"
        "with held(Path(sys.argv[1])): input()"
    )
    command = [sys.executable, "-c", holds, str(tmp_path)]
    lock = tmp_path / "lock"
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path.cwd())}) as other:
        while not (lock.exists() and _is_locked(lock)):
            assert other.poll() is None
        with (
            pytest.raises(StateUnusable, match=rf"process {other.pid} serves with this state; stop it"),
            held(tmp_path),
        ):
            pass
        other.kill()  # a lock must not outlive its holder, however that ended
    with held(tmp_path):
        pass


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_child_does_not_inherit_the_lock(tmp_path):
    with held(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with held(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_state_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StateUnusable, match=r"cannot hold the state .*set state_dir"),
        held(tmp_path / "file" / "state"),
    ):
        pass


def test_where_the_system_does_not_tell_who_holds_a_lock_it_is_another_process(tmp_path):
    inode = tmp_path.stat().st_ino
    fd = os.open(tmp_path, os.O_RDONLY)
    lines = {
        "": "another process",
        f"1: POSIX  ADVISORY  WRITE 17 08:01:{inode} 0 EOF\n": "another process",
        f"1: FLOCK  ADVISORY  WRITE 17 08:01:{inode}0 0 EOF\n": "another process",
        f"1: FLOCK  ADVISORY  WRITE 0 08:01:{inode} 0 EOF\n": "another process",  # outside our PID namespace
        f"1: FLOCK  ADVISORY  WRITE 17 08:01:{inode} 0 EOF\n": "process 17",
    }
    try:
        for line, holder in lines.items():
            (tmp_path / "locks").write_text(line)
            assert holder_of(fd, tmp_path / "locks") == holder
        assert holder_of(fd, tmp_path / "missing") == "another process"
    finally:
        os.close(fd)


# space


def test_after_a_full_disk_nothing_is_claimed_until_there_is_room_again():
    room = [False]
    space = Space(lambda: room[0])
    assert space.is_there(0.0)  # nothing ran out yet, so nobody asks
    space.ran_out(0.0)
    assert [space.is_there(now_s) for now_s in (0.0, 0.9, 1.0, 50.0)] == [False] * 4
    room[0] = True
    assert not space.is_there(50.5)  # asked once a second
    assert space.is_there(51.0)


def test_what_runs_out_although_there_is_room_is_tried_ever_more_seldom():
    space, now_s, pauses_s = Space(lambda: True, Patience(retry_most_s=10.0)), 0.0, []
    for _ in range(6):
        space.ran_out(now_s)
        began_s = now_s
        while not space.is_there(now_s):
            now_s += 0.5
        pauses_s.append(now_s - began_s)
    assert pauses_s == [1, 2, 4, 8, 10, 10]
    space.sufficed()
    space.ran_out(now_s)
    assert (space.is_there(now_s + 0.9), space.is_there(now_s + 1.0)) == (False, True)
