"""The error tree, cut by what happens next, not by which library complained.

    EdgeError
    ├── Refused                 this file only: say why (beside it, where it is an image), carry on
    │   ├── NotAnImage          not something we read; nothing is written beside it
    │   ├── UnsupportedImage    an image of a sort we do not take
    │   ├── FileTooLarge        not even read, so nothing is written beside it
    │   ├── DamagedImage        an image whose pixels cannot be trusted
    │   ├── ImplausibleGeometry an image whose geometry tags contradict physics
    │   └── ResultNameTaken     the result's name belongs to another image; nothing is overwritten
    ├── TryAgain                the surroundings: back off, come back to the same file
    │   ├── ImageUnreadable     the operating system could not read the file just now
    │   ├── InferenceFailed     the backend failed on an image it was ready for: device, memory
    │   ├── ReaderDied          the process that reads images died of this file, or took too much for it
    │   ├── WorkerDied          the process that finds landmarks died with this file in hand
    │   ├── DeviceLost          the accelerator is gone for this process: a new one may have it again
    │   ├── SpoolFull           no space for working copies and the journal: nothing is claimed until there is
    │   ├── JournalDamaged      the journal was damaged under us: a new process sets it aside
    │   ├── FolderUnavailable   a drop folder vanished or cannot be listed
    │   └── ResultsNotWritable  a result could not be stored: permissions, space, share
    └── Stop                    this process: exit, a restart cannot help (status 78)
        ├── BadConfig           the configuration does not say what to do
        ├── BadRelease          the engine release is missing, not signed, or does not match its own contract
        ├── StateUnusable       journal or spool cannot be used: permissions, damage, another daemon has them
        ├── BackendFailed       the backend cannot run the release, or does not reproduce its golden answers
        ├── StoreNotWritable    the store of releases or references could not be changed: permissions, space
        └── BadReference        what was to become a reference is none, or the store has one, or none, by that key

Foreign exceptions are translated where they enter, with ``from``. A message says what happened, to which file, and
what to do.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Anything this software reports on purpose."""


class Refused(EdgeError):
    """This file only: write the reason beside it and carry on."""

    writes_reason = True


class NotAnImage(Refused):
    """The file is not something we read, so nothing is written beside it."""

    writes_reason = False


class UnsupportedImage(Refused):
    """An image of a sort we do not take: colour, several frames, deflated, too many pixels."""


class FileTooLarge(Refused):
    """Larger than any portal image: not read, so its hash is not known, and nothing is written beside it."""

    writes_reason = False


class DamagedImage(Refused):
    """An image whose pixels cannot be trusted: truncated, zero tail, not finite, constant."""


class ImplausibleGeometry(Refused):
    """Geometry tags that contradict physics, such as a source distance of zero."""


class ResultNameTaken(Refused):
    """The result's file name already belongs to another image; nothing is overwritten."""

    writes_reason = False


class TryAgain(EdgeError):
    """The surroundings failed, not the file: back off and come back to it."""


class ImageUnreadable(TryAgain):
    """The operating system could not read the file just now."""


class InferenceFailed(TryAgain):
    """The backend failed on an image although it was ready: a device fault, memory."""


class ReaderDied(TryAgain):
    """The process that reads images died of this file, or took more memory or time than it may; twice: refused."""


class WorkerDied(TryAgain):
    """The process that finds landmarks died, or was ended for taking too long, with this file in hand; as above."""


class DeviceLost(TryAgain):
    """The accelerator cannot be used by this process any more; the worker is started anew. Not the file's fault."""


class SpoolFull(TryAgain):
    """No space is left for working copies or the journal; nothing is claimed until there is."""


class JournalDamaged(TryAgain):
    """The journal was damaged while it was open: this process ends, the next one sets it aside and begins another."""


class FolderUnavailable(TryAgain):
    """A drop folder vanished or cannot be listed."""


class ResultsNotWritable(TryAgain):
    """A result could not be stored: permissions, space or share."""


class Stop(EdgeError):
    """This process cannot go on, and a restart cannot help."""

    exit_status = 78  # EX_CONFIG of sysexits.h; systemd: RestartPreventExitStatus=78


class BadConfig(Stop):
    """The configuration is missing, malformed or has an unknown key."""


class BadRelease(Stop):
    """The engine release is missing, not signed, or does not match its own contract."""


class StateUnusable(Stop):
    """The journal or the spool cannot be used: permissions, damage, or another daemon has them."""


class BackendFailed(Stop):
    """The backend cannot run the release, or does not reproduce its golden answers."""


class StoreNotWritable(Stop):
    """A store of releases or references could not be changed: permissions, space. What was in use still is."""


class BadReference(Stop):
    """A reference that a person asked for cannot be added, shown or removed. A daemon never raises it."""
