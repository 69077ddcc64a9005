"""Names in a folder on a disk that cannot sync folders, and on one that ails."""

import errno
import os
import stat

import pytest

from edge.durable import sync_folder
from edge.errors import StoreNotWritable
from edge.registration.reference import add_reference
from tests.edge.registration.test_alignment import reference


@pytest.fixture
def folders_sync_with(monkeypatch):
    """Return a function that has the sync of every folder fail with an error number."""
    real = os.fsync

    def fail_with(number):
        def fsync(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(number, os.strerror(number))
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)

    return fail_with


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_share_that_cannot_sync_a_folder_is_good_enough(tmp_path, folders_sync_with, number):
    folders_sync_with(number)
    sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_ails_is_told_of(tmp_path, folders_sync_with, number):
    folders_sync_with(number)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


def test_a_reference_whose_name_may_not_outlast_a_power_cut_is_not_called_stored(tmp_path, folders_sync_with):
    folders_sync_with(errno.EIO)
    with pytest.raises(StoreNotWritable, match="Input/output error"):
        add_reference(tmp_path, reference())
