"""Which machine a run was done on: its kind, never its name."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Return the processor's name as the system has it."""
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, str | int | None]:
    """Describe the machine: its processor, and how many of them the system counts."""
    return {"processor": processor(), "cores": os.cpu_count()}
