"""What every test shares: which needs are met here, and a count of what was skipped and why."""

import importlib.util
import os
import shutil
from collections import Counter

import pytest
from hypothesis import settings

# A shared two-core machine makes single examples slow now and then; on CI a failure must repeat.
settings.register_profile("default", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("default")

# Beside another worker of pytest-xdist a library's second thread mostly waits for its turn: torch's
# threads meet after every operation, and training then takes ten times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def unmet_need(marker: str) -> str | None:
    """Why tests with this marker can't run on this machine, or None if they can."""
    if marker == "device":
        named = os.environ.get("DEEPSEEK_EDGE_DEVICE")
        return None if named else "no board named in DEEPSEEK_EDGE_DEVICE"
    if "CI" in os.environ:
        return None  # CI installs every tool: a missing one must fail there, not hide as a skip
    if marker in ("torch", "tvm", "tensorrt_rtx") and importlib.util.find_spec(marker) is None:
        return f"{marker} is not installed"
    if marker == "emulated" and not any(
        shutil.which(name) for name in ("qemu-aarch64-static", "qemu-aarch64")
    ):
        return "qemu-user-static is not installed"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers():
        if reason := unmet_need(marker.name):
            pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped, by reason")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:4d}  {reason}")
