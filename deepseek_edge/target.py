"""Targets: what a board's CPU, memory and C library are, as data (``targets/*.toml``).

A board differs from another by its TOML only. Every number in it names the document that it was
read in, or says that it is unverified.
"""

import datetime
import difflib
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from deepseek_edge.digest import digest_json
from deepseek_edge.errors import UnknownTargetError, UnsupportedError, UsageError
from deepseek_edge.host_cpu import ArmCore, describe_cpu
from deepseek_edge.resources import resource_dir
from deepseek_edge.strict_toml import convert, read_toml

UNVERIFIED = "unverified"

# zig has no older glibc for AArch64 that its linker was tested with here.
_OLDEST_GLIBC = (2, 28)

# What is true of the hardware whoever compiles for it, and so needs a source.
_FACTS = (
    "mcpu",
    "cores",
    "clock_hz",
    "l1d_bytes",
    "l2_bytes",
    "l3_bytes",
    "memory_bytes",
    "memory_bandwidth_bytes_s",
    "peak_fma_per_cycle",
    "gpu",
)

_Hz = Annotated[int, msgspec.Meta(ge=100_000_000, le=10_000_000_000)]
_Cache = Annotated[int, msgspec.Meta(ge=0, le=4 << 30)]


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU beside the CPU.

    Attributes:
        arch: NVIDIA's name of the instruction set, e.g. "sm_87".
        multiprocessors: how many it has at least; kernels are cut for so many.
        tensorrt: the oldest version that engines are built with on the board, e.g. "10.3"; None:
            no engines.
    """

    arch: Annotated[str, msgspec.Meta(pattern=r"^sm_\d{2,3}$")]
    multiprocessors: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    tensorrt: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$")] | None = None

    @property
    def is_strongly_typed(self) -> bool:
        """TensorRT takes precisions from the graph's types: from 10 on, before by flags."""
        return self.tensorrt is not None and int(self.tensorrt.split(".")[0]) >= 10


@dataclass(frozen=True)
class Qdq:
    """What the target's back ends accept in a Q/DQ graph.

    Attributes:
        zero_point: activations may have a zero point other than 0; TensorRT's may not.
    """

    zero_point: bool


@dataclass(frozen=True)
class Target:
    """One board, or one kind of CPU.

    Attributes:
        id: the file's name, e.g. "raspberry-pi-5".
        extends: the target that this one refines, if any.
        glibc: the oldest glibc that programs run with, or None on Android.
        android_api: the oldest Android API level, or None on Linux.
        mcpu: LLVM's name of the core.
        features: LLVM's names of what kernels may use and the runtime checks at open.
        vector_bits: of the widest register that kernels use.
        vector_registers: how many of them.
        cores: that compute at the same time.
        clock_hz: the highest rate all cores run at, if known.
        l1d_bytes, l2_bytes: of one core, or of the cluster that shares them.
        l3_bytes: shared by all, 0 if there is none.
        memory_bytes: None where boards of this id differ.
        memory_bandwidth_bytes_s: of the memory interface, all masters together.
        peak_fma_per_cycle: float32 multiply-adds that one core starts per cycle.
        qemu_cpu: the CPU model of qemu-aarch64 that has the same features.
        precisions: in which programs can be compiled.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    name: Annotated[str, msgspec.Meta(min_length=1)]
    kind: Literal["cpu"]
    arch: Literal["x86_64", "aarch64"]
    os: Literal["linux", "android"]
    mcpu: str
    features: tuple[str, ...]
    vector_bits: Literal[128, 256, 512]
    vector_registers: Literal[16, 32]
    cores: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    l1d_bytes: Annotated[int, msgspec.Meta(ge=4 << 10, le=4 << 20)]
    l2_bytes: _Cache
    l3_bytes: _Cache
    peak_fma_per_cycle: Annotated[int, msgspec.Meta(ge=1, le=256)]
    precisions: tuple[Literal["float32", "float16", "int8", "w4a16"], ...]
    qdq: Qdq
    extends: str | None = None
    glibc: Annotated[str, msgspec.Meta(pattern=r"^2\.\d{1,2}$")] | None = None
    android_api: Annotated[int, msgspec.Meta(ge=24, le=99)] | None = None
    clock_hz: _Hz | None = None
    memory_bytes: Annotated[int, msgspec.Meta(ge=16 << 20, le=1 << 44)] | None = None
    memory_bandwidth_bytes_s: Annotated[int, msgspec.Meta(ge=10**8, le=10**13)] | None = None
    qemu_cpu: str | None = None
    gpu: Gpu | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all fields as canonical JSON."""
        return digest_json(asdict(self))


@dataclass(frozen=True)
class _Source:
    source: Annotated[str, msgspec.Meta(min_length=1)]
    fields: tuple[str, ...]
    url: str | None = None
    read: datetime.date | None = None


@dataclass(frozen=True)
class _Core:
    features: frozenset[str]
    arch: Literal["x86_64", "aarch64"] = "aarch64"
    implementer: int = 0
    part: int = 0
    fma_per_cycle: int = 0


@dataclass(frozen=True)
class _CoreTable:
    baselines: dict[str, _Core]
    aarch64: dict[str, _Core]


def list_targets() -> tuple[str, ...]:
    """Ids of the targets that ship with the package, sorted."""
    folder = resource_dir("targets")
    return tuple(sorted(p.stem for p in folder.glob("*.toml") if p.name != "cores.toml"))


def load_target(id: str) -> Target:
    """The target of this id; one that detects its CPU ("host") is resolved from it now.

    Args:
        id: one of :func:`list_targets`, or the path of a TOML file of the caller's (ends in .toml).

    Raises:
        UnknownTargetError: there is no such target.
        UsageError: the file is malformed or describes what can't be (see :func:`check_target`).
        UnsupportedError: the target is this machine, and it is neither x86-64 nor AArch64 Linux.
    """
    return _load(_find(id))[0]


def describe_sources(id: str) -> dict[str, str]:
    """Where each number of a target was read: field -> document, or ``UNVERIFIED``.

    Values that were read from this machine's CPU are left out. Raises what ``load_target`` raises.
    """
    return _load(_find(id))[1]


def unverified_fields(id: str) -> frozenset[str]:
    """Fields of a target whose values no source backs: all facts if the id isn't known here."""
    try:
        sources = describe_sources(id)
    except UnknownTargetError:
        return frozenset(_FACTS)
    return frozenset(field for field, source in sources.items() if source == UNVERIFIED)


def check_target(path: Path) -> list[str]:
    """Checks a target's file and says which of its numbers nobody has verified.

    Returns:
        Names of the unverified fields, sorted.

    Raises:
        UsageError: not TOML (with the line); an unknown, missing or out-of-range key; a number
            without a source; a core or feature that doesn't exist or don't belong together; a
            parent that itself extends another target; a glibc older than 2.28.
        UnknownTargetError: there is no such file.
        UnsupportedError: the file describes this machine's CPU, which is of another kind.
    """
    sources = _load(_find(str(path)))[1]
    return sorted(field for field, source in sources.items() if source == UNVERIFIED)


def _find(id: str) -> Path:
    if id.endswith(".toml"):
        if Path(id).is_file():
            return Path(id)
        raise UnknownTargetError(f"target file '{id}' does not exist")
    known = list_targets()
    if id in known:
        return resource_dir("targets") / f"{id}.toml"
    near = difflib.get_close_matches(id, known, n=3, cutoff=0.4)
    raise UnknownTargetError(
        f"unknown target '{id}'",
        hint=f"did you mean {' or '.join(near)}?" if near else "deepseek-edge target list",
    )


def _load(path: Path) -> tuple[Target, dict[str, str]]:
    """The target of a file, and the source of each of its numbers."""
    table = read_toml(path)
    sources = _take_sources(table, path)
    parent_id = table.get("extends")
    if parent_id is not None:
        parent = read_toml(_find_parent(parent_id, path))
        if "extends" in parent:
            raise UsageError(
                f"{path.name}: extends '{parent_id}', which itself extends '{parent['extends']}'",
                hint="a target may extend one that stands by itself",
            )
        inherited = _take_sources(parent, path)
        sources = {**{k: v for k, v in inherited.items() if k not in table}, **sources}
        table = {**parent, **table}
    if table.pop("detect", False) is True:
        table = {**_detect(), **table}
        facts = [f for f in _FACTS if f in sources]
    else:
        facts = [f for f in _FACTS if table.get(f) is not None]
    target = convert({**table, "id": path.stem}, Target, path.name)
    _check_system(target, path)
    _check_core(target, path)
    unsourced = [field for field in facts if field not in sources]
    if unsourced:
        raise UsageError(
            f"{path.name}: no source for {', '.join(unsourced)}",
            hint='name them in a [[sources]] block, with source = "unverified" if nothing was read',
        )
    return target, sources


def _find_parent(parent_id: object, path: Path) -> Path:
    if not isinstance(parent_id, str):
        raise UsageError(f"{path.name}: extends is no string")
    beside = path.with_name(f"{parent_id}.toml")
    return beside if parent_id == Path(parent_id).name and beside.is_file() else _find(parent_id)


def _take_sources(table: dict[str, Any], path: Path) -> dict[str, str]:
    """Removes ``sources`` from the table, and says the document of each field."""
    blocks = table.pop("sources", [])
    if not isinstance(blocks, list):
        raise UsageError(f"{path.name}: sources is no list of blocks; write [[sources]]")
    documents: dict[str, str] = {}
    for block in blocks:
        source = convert(block, _Source, path.name)
        if source.source != UNVERIFIED and source.read is None:
            raise UsageError(
                f"{path.name}: source '{source.source}' does not say when it was read",
                hint="add a date, e.g. read = 2026-11-21",
            )
        for field in source.fields:
            if field not in table or field in documents:
                fault = "twice" if field in documents else "but has no such value"
                raise UsageError(f"{path.name}: names a source for '{field}' {fault}")
            documents[field] = source.source + (f" ({source.url})" if source.url else "")
    return documents


def _check_system(target: Target, path: Path) -> None:
    if (target.os == "linux") != (target.glibc is not None):
        raise UsageError(f"{path.name}: a Linux target, and only that, has a glibc")
    if (target.os == "android") != (target.android_api is not None):
        raise UsageError(f"{path.name}: an Android target, and only that, has an android_api")
    if target.glibc and tuple(map(int, target.glibc.split("."))) < _OLDEST_GLIBC:
        raise UsageError(
            f"{path.name}: glibc {target.glibc} is older than 2.28",
            hint="programs built for 2.28 need a system of 2018 or later",
        )


def _check_core(target: Target, path: Path) -> None:
    table = _core_table()
    cores = {**table.baselines, **table.aarch64}
    core = cores.get(target.mcpu)
    if core is None or core.arch != target.arch:
        near = difflib.get_close_matches(target.mcpu, cores, n=3)
        raise UsageError(
            f"{path.name}: no {target.arch} core is called '{target.mcpu}'",
            hint=f"did you mean {' or '.join(near)}?" if near else "targets/cores.toml lists them",
        )
    lacking = sorted(set(target.features) - core.features)
    if lacking:
        raise UsageError(
            f"{path.name}: {target.mcpu} has no {', '.join(lacking)}",
            hint=f"it has {', '.join(sorted(core.features)) or 'none of the optional features'}",
        )


def _core_table() -> _CoreTable:
    path = resource_dir("targets") / "cores.toml"
    return convert(read_toml(path), _CoreTable, path.name)


def _usable_cpus() -> set[int]:
    """CPUs of the machine, or of the container: those that its first process may run on.

    Not this process's own: programs don't depend on the number of threads, so a compiler that
    ``taskset`` or ``numactl`` keeps on one CPU has to make the same one.
    """
    try:
        return os.sched_getaffinity(1)
    except OSError:  # hidden, e.g. by hidepid or a sandbox
        return os.sched_getaffinity(0)


def _detect() -> dict[str, object]:
    """The fields of a target that this machine's CPU decides."""
    if not sys.platform.startswith("linux"):
        raise UnsupportedError(
            f"target 'host' is not supported on {sys.platform}",
            hint="other targets can be compiled for from here: deepseek-edge target list",
        )
    allowed = _usable_cpus()
    folder = Path(f"/sys/devices/system/cpu/cpu{min(allowed)}")

    def read_sysfs(name: str) -> str | None:
        try:
            return (folder / name).read_text("ascii")
        except OSError:
            return None

    cores = _core_table().aarch64
    return describe_cpu(
        platform.machine(),
        Path("/proc/cpuinfo").read_text("utf-8"),
        read_sysfs,
        allowed,
        [
            ArmCore(name, core.implementer, core.part, core.features, core.fma_per_cycle)
            for name, core in cores.items()
        ],
    )
