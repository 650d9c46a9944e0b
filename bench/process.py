"""What a benchmark says of the process and the machine it ran on. Linux only: both are read from /proc.

Belongs here: memory and machine. Does not belong here: seconds (``steps.py``) and what is measured.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np


def memory(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of this process: VmRSS is what it has now, VmHWM the most it had.

    Not ``ru_maxrss``, which on Linux counts the memory of the process that started this one.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def machine() -> dict[str, Any]:
    """What numbers were measured on."""
    from perturbridge_dagster.compiled import n_cores
    from perturbridge_dagster.effects import r_versions

    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cores": n_cores(),
        "processor": model[1] if model else "unknown",
        "memory_gib": round(int(total[1]) / 2**20) if total else None,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": r_versions() | {"numpy": np.__version__, "python": sys.version.split()[0]},
        "measured": time.strftime("%Y-%m-%d"),
    }
