"""What is killed at any of its calls of the system, for whatever has to leave a folder whole."""

import os
import signal
import sys
import warnings

SYSTEM = {"posix", "fcntl", "_io", "io"}


def killed_at(step, action):
    """Run ``action`` in a process that kills itself before its ``step``-th call of the system; tell whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child only touches files
        child = os.fork()
    if child == 0:
        count = 0

        def before(_frame, event, function):
            nonlocal count
            owner = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
            if event == "c_call" and owner in SYSTEM:
                count += 1
                if count > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(before)
            action()
            sys.setprofile(None)
            os._exit(0)
        finally:
            os._exit(1)  # the action raised
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
