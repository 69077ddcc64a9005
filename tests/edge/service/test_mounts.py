from pathlib import Path

import pytest

from edge.service.machine import Machine
from edge.service.mounts import file_system
from tests.edge.checkup_room import LOCAL


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/portal", "ext4"),
        ("/mnt/room one/x", "cifs"),  # written as \040
        ("/mnt/room", "ext4"),
        ("/mnt/room one", "cifs"),
        ("/over", "nfs4"),  # mounted over another one
    ],
)
def test_a_path_lies_on_the_innermost_and_topmost_mount(path, kind):
    mounts = (
        LOCAL
        + "30 21 0:40 / /mnt/room\\040one rw shared:5 master:1 - cifs //server/drop rw,vers=3.0\n"
        + "31 21 0:41 / /over rw - xfs /dev/sdb rw\n"
        + "32 21 0:42 / /over rw - nfs4 server:/export rw\n"
    )
    assert file_system(Path(path), mounts) == kind


def test_this_machine_s_mounts_are_understood():
    assert file_system(Path("/proc/self"), Machine().mounts()) == "proc"
