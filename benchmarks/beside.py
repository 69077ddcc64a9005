"""Let this environment import what another one has: python beside.py ENVIRONMENT."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def main(environment: str) -> None:
    """Write a .pth file, which is read at each start; the other environment's own .pth files count, too."""
    theirs = sysconfig.get_path("purelib", vars={"base": environment})
    Path(sysconfig.get_path("purelib"), "beside.pth").write_text(f"import site; site.addsitedir({theirs!r})\n")


if __name__ == "__main__":
    main(sys.argv[1])
