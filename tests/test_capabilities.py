import importlib.metadata
import importlib.util
import platform
import re
from pathlib import Path

import pytest

from deepseek_edge import capabilities
from deepseek_edge.capabilities import (
    PINS,
    check_compiler,
    check_plots,
    emulation_hint,
    find_capabilities,
)
from deepseek_edge.errors import MissingToolError

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_pins_are_those_of_the_package() -> None:
    pinned = re.findall(r'^  "([a-z-]+)==([^"]+)",', PYPROJECT.read_text("utf-8"), re.MULTILINE)
    assert {name: version for name, version in pinned if name in PINS} == PINS


def test_everything_required_is_here() -> None:
    check_compiler()
    check_plots()
    missing = [one.name for one in find_capabilities() if one.required and one.found is None]
    assert missing == []


def test_the_cpu_is_described() -> None:
    first = find_capabilities()[0]
    assert first.name.startswith("CPU ")
    assert "cores" in str(first.found)


def versions(changed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = changed[name] if name in changed else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_missing_package_is_named_with_its_exact_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions({"ziglang": None}, monkeypatch)
    with pytest.raises(MissingToolError, match="ziglang") as caught:
        check_compiler()
    assert caught.value.hint == f"pip install 'ziglang=={PINS['ziglang']}'"


def test_another_version_of_a_pinned_package_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    versions({"apache-tvm-ffi": "0.1.15.post2"}, monkeypatch)
    with pytest.raises(MissingToolError, match="apache-tvm-ffi") as caught:
        check_compiler()
    assert "found 0.1.15.post2" in str(caught.value.hint)


def test_what_is_optional_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions({"torch": None, "matplotlib": None}, monkeypatch)
    check_compiler()
    remedies = {one.name: one.remedy for one in find_capabilities()}
    assert remedies["torch"] == "pip install 'deepseek-edge[torch]'"


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingToolError, match="matplotlib"):
        check_plots()


def test_an_emulator_is_asked_for_only_where_it_would_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "_find_qemu", lambda: None)
    assert "qemu-user-static" in emulation_hint("aarch64")
    assert "qemu" not in emulation_hint("x86_64")
    monkeypatch.setattr(capabilities, "_find_qemu", lambda: "/usr/bin/qemu-aarch64-static")
    assert "qemu" not in emulation_hint("aarch64")


def test_an_arm_machine_needs_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(capabilities, "_find_qemu", lambda: None)
    assert "not needed" in str(capabilities._emulator().found)
