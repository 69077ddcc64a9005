"""What is asked of the kernel, by a kernel that is made up. What a real one does: test_reader_confinement.py."""

import errno
import os
import struct
from pathlib import Path

import pytest

from edge.processes.landlock import (
    ASK_VERSION,
    CREATE_RULESET,
    NEWEST_ABI,
    RESTRICT_SELF,
    confine,
    in_words,
    supported_abi,
)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15


class Kernel:
    """A kernel that claims a version of Landlock and knows the rights of another; keeps what it was asked."""

    def __init__(self, claims, knows=None, refuses=None):
        self.claims, self.knows, self.refuses = claims, claims if knows is None else knows, refuses
        self.rulesets, self.restricted = [], []

    def __call__(self, number, first, second, third):
        if self.claims == 0:
            raise OSError(self.refuses, os.strerror(self.refuses))
        if number == RESTRICT_SELF:
            self.restricted.append(first)
            return 0
        assert number == CREATE_RULESET
        if first is None:
            assert (second, third) == (0, ASK_VERSION)
            return self.claims
        files, network, scoped = struct.unpack("=3Q", first)
        known_files = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}.get(self.knows, 0xFFFF)
        if files & ~known_files or (network and self.knows < 4):
            raise OSError(errno.EINVAL, "unknown right")
        if scoped and self.knows < 6:  # a struct that is longer than this kernel's, and not zero there
            raise OSError(errno.E2BIG, "unknown member")
        self.rulesets.append((files, network, scoped))
        return os.open("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_without_landlock_is_no_failure(refusal):
    """An older one; one where it is switched off; a filter of system calls that does not know it."""
    kernel = Kernel(0, refuses=refusal)
    assert (supported_abi(call=kernel), confine(call=kernel)) == (0, 0)
    assert kernel.restricted == []


@pytest.mark.parametrize("abi", range(1, NEWEST_ABI + 1))
def test_a_kernel_is_asked_for_what_it_offers(abi):
    kernel = Kernel(abi)
    assert confine(call=kernel) == abi
    assert len(kernel.rulesets) == len(kernel.restricted) == 1


def test_a_newer_kernel_is_asked_for_what_is_known_here():
    kernel = Kernel(NEWEST_ABI + 3)
    assert confine(call=kernel) == NEWEST_ABI


def test_a_kernel_that_claims_too_much_gives_what_it_has():
    kernel = Kernel(claims=6, knows=5)
    assert (supported_abi(call=kernel), confine(call=kernel)) == (5, 5)


def test_asking_what_is_offered_restricts_nobody():
    kernel = Kernel(NEWEST_ABI)
    assert supported_abi(call=kernel) == NEWEST_ABI
    assert kernel.restricted == []


def test_a_lower_version_can_be_asked_for():
    kernel = Kernel(NEWEST_ABI)
    assert (confine(1, kernel), confine(0, kernel)) == (1, 0)
    assert len(kernel.restricted) == 1


def test_everything_that_changes_a_file_is_denied_and_reading_is_not():
    kernel = Kernel(NEWEST_ABI)
    confine(call=kernel)
    ((files, network, scoped),) = kernel.rulesets
    assert 0xFFFF & ~files == READ_FILE | READ_DIR  # 16 rights are known
    assert (network, scoped) == (0b11, 0b11)


@pytest.mark.parametrize(("abi", "right"), [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)])
def test_a_right_is_denied_from_the_version_on_that_knows_it(abi, right):
    kernel = Kernel(NEWEST_ABI)
    confine(abi - 1, kernel)
    confine(abi, kernel)
    (before, *_), (after, *_) = kernel.rulesets
    assert after & ~before == right


def open_descriptors():
    return len([*Path("/proc/self/fd").iterdir()])


def test_no_descriptor_is_left_open():
    before = open_descriptors()
    kernel = Kernel(NEWEST_ABI)
    supported_abi(call=kernel)
    confine(call=kernel)
    assert open_descriptors() == before


def test_in_words():
    assert in_words(0) == "Landlock is not available"
    assert in_words(NEWEST_ABI) == f"Landlock ABI {NEWEST_ABI}"
    assert in_words(5) == "Landlock ABI 5; not available against signals and abstract sockets of others"


def test_what_every_version_denies_unasked_is_not_called_missing():
    """Moving a file to another folder."""
    assert "moving files between folders" not in in_words(1)
    assert "truncating files" in in_words(1)
