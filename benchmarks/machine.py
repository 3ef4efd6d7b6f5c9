"""What this machine is, of what decides times."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any


def describe_machine(cpuinfo: str) -> dict[str, Any]:
    """Describe the processor, its caches and the kernel.

    Args:
        cpuinfo: the text of /proc/cpuinfo.
    """
    from deepseek_edge.target import load_target

    host = asdict(load_target("host"))
    fields = (line.partition(":") for line in cpuinfo.split("\n\n", maxsplit=1)[0].splitlines())
    processor = {key.strip(): value.strip() for key, _, value in fields}
    described = ("arch", "mcpu", "features", "vector_bits", "cores", "clock_hz")
    return {
        "cpu": processor.get("model name") or processor.get("CPU part"),
        # A hypervisor may hide the name, but not these.
        "cpu_family": processor.get("cpu family"),
        "cpu_model": processor.get("model"),
        "is_virtual": "hypervisor" in processor.get("flags", ""),
        **{key: host[key] for key in (*described, "l1d_bytes", "l2_bytes", "l3_bytes")},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Installed versions; None for what is missing or runs without being installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
