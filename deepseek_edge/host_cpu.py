"""Describes the CPU of a Linux machine, as the fields of a target.

Everything here is a function of texts that the kernel shows, so that a CPU can be described from
a recording of it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from deepseek_edge.errors import UnsupportedError

# Reads a file below /sys/devices/system/cpu/cpuN, or says None where there is none.
ReadSysfs = Callable[[str], str | None]

# /proc/cpuinfo's names of the instruction sets that x86-64 levels are made of, as LLVM names them
# (levels: x86-64 psABI, section 3.1.1). "abm" is the kernel's word for lzcnt.
_X86_LEVEL_2 = {"sse4_2": "sse4.2", "ssse3": "ssse3", "popcnt": "popcnt"}
_X86_LEVEL_3 = {
    "avx2": "avx2",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "abm": "lzcnt",
    "movbe": "movbe",
}
_X86_LEVEL_4 = {name: name for name in ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")}
_X86_INT8 = {"avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni"}

_ARM_FEATURES = {
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}

_SUFFIX_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class ArmCore:
    """What tells an AArch64 core: MIDR_EL1's numbers, and what code for it may use.

    Attributes:
        mcpu: LLVM's name.
        implementer, part: as /proc/cpuinfo shows them, e.g. 0x41 and 0xd0b.
        features: what code that LLVM makes for this name may use, of those we distinguish.
        fma_per_cycle: float32 multiply-adds a cycle.
    """

    mcpu: str
    implementer: int
    part: int
    features: frozenset[str]
    fma_per_cycle: int


def describe_cpu(
    machine: str,
    cpuinfo: str,
    read_sysfs: ReadSysfs,
    allowed: Collection[int],
    arm_cores: Collection[ArmCore],
) -> dict[str, object]:
    """The fields of a target that the CPU decides.

    Where the kernel shows no caches (some containers and boards), 32 KiB of L1 data cache,
    256 KiB of L2 and no L3 are taken: every core of the supported kinds has these.

    Args:
        machine: as uname gives it: "x86_64" or "aarch64".
        cpuinfo: the text of /proc/cpuinfo.
        read_sysfs: of one of the allowed CPUs.
        allowed: numbers of the CPUs that count. Threads of one core count once: they share its
            multipliers.
        arm_cores: the AArch64 cores that have a name of their own; others are "generic".

    Raises:
        UnsupportedError: the machine is neither, or its CPU can't be read.
    """
    blocks = [block for block in map(_parse_block, re.split(r"\n\s*\n", cpuinfo)) if block]
    processors = [block for block in blocks if int(block.get("processor", "-1")) in allowed]
    if not processors:
        raise UnsupportedError(
            "this machine's CPU can't be read: /proc/cpuinfo lists none of the allowed processors",
            hint="name the target instead, e.g. --target arm64 (deepseek-edge target list)",
        )
    if machine == "x86_64":
        described = _describe_x86(processors)
    elif machine == "aarch64":
        described = _describe_arm(processors, arm_cores)
    else:
        raise UnsupportedError(
            f"target 'host' is not supported on a {machine} machine",
            hint="host is x86_64 or aarch64 Linux; other targets can be compiled for from there",
        )
    max_khz = read_sysfs("cpufreq/cpuinfo_max_freq")
    if max_khz is not None:
        described["clock_hz"] = int(max_khz) * 1000
    return {**described, **_read_caches(read_sysfs)}


def _parse_block(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _present(known: Mapping[str, str], flags: Collection[str]) -> list[str]:
    return [name for flag, name in known.items() if flag in flags]


def _describe_x86(processors: list[dict[str, str]]) -> dict[str, object]:
    flags = frozenset(processors[0].get("flags", "").split())
    has_level_2 = _X86_LEVEL_2.keys() <= flags
    has_level_3 = has_level_2 and _X86_LEVEL_3.keys() <= flags
    has_level_4 = has_level_3 and _X86_LEVEL_4.keys() <= flags
    features: list[str] = []
    if has_level_3:
        features = list(_X86_LEVEL_3.values())
    elif has_level_2:
        features = list(_X86_LEVEL_2.values())
    if has_level_4:
        features += _X86_LEVEL_4.values()
        features += _present(_X86_INT8, flags)
    elif has_level_3:
        features += _present({"avx_vnni": "avxvnni"}, flags)
    vector_bits = 512 if has_level_4 else 256 if has_level_3 else 128
    cores = {
        (block.get("physical id"), block.get("core id", block["processor"])) for block in processors
    }
    return {
        "arch": "x86_64",
        "mcpu": "x86-64"
        + ("-v4" if has_level_4 else "-v3" if has_level_3 else "-v2" if has_level_2 else ""),
        "features": sorted(features),
        "vector_bits": vector_bits,
        "vector_registers": 32 if has_level_4 else 16,
        "cores": len(cores),
        "clock_hz": _tsc_hz(processors[0]),
        "peak_fma_per_cycle": _x86_fma_per_cycle(processors[0], vector_bits, has_level_3),
    }


def _x86_fma_per_cycle(processor: dict[str, str], vector_bits: int, has_fma: bool) -> int:
    if not has_fma:
        return vector_bits // 32  # one multiplication and one addition
    # AMD family 25 with AVX-512 is Zen 4: 512-bit operations take its 256-bit pipes twice.
    is_zen_4 = processor.get("vendor_id") == "AuthenticAMD" and processor.get("cpu family") == "25"
    return 2 * (min(vector_bits, 256) if is_zen_4 else vector_bits) // 32


def _tsc_hz(processor: dict[str, str]) -> int | None:
    # Linux computes BogoMIPS of x86 as twice the rate of the time stamp counter, which is the
    # nominal clock. "cpu MHz" would change from one reading to the next.
    bogomips = processor.get("bogomips")
    return round(float(bogomips) / 2 / 100) * 100_000_000 if bogomips else None


def _describe_arm(
    processors: list[dict[str, str]], arm_cores: Collection[ArmCore]
) -> dict[str, object]:
    flags = frozenset.intersection(*(frozenset(p.get("Features", "").split()) for p in processors))
    features = _present(_ARM_FEATURES, flags)
    parts = {
        (int(p.get("CPU implementer", "0"), 16), int(p.get("CPU part", "0"), 16))
        for p in processors
    }
    # A core's name lets LLVM use all that the core has: one feature masked by a hypervisor, or
    # two kinds of cores, and only the generic name with the features that are there is safe.
    matches = [
        core
        for core in arm_cores
        if parts == {(core.implementer, core.part)} and core.features <= frozenset(features)
    ]
    return {
        "arch": "aarch64",
        "mcpu": matches[0].mcpu if matches else "generic",
        "features": sorted(features),
        "vector_bits": 128,
        "vector_registers": 32,
        "cores": len(processors),
        "clock_hz": None,
        "peak_fma_per_cycle": matches[0].fma_per_cycle if matches else 4,
    }


def _read_caches(read_sysfs: ReadSysfs) -> dict[str, object]:
    sizes = {"l1d_bytes": 32 << 10, "l2_bytes": 256 << 10, "l3_bytes": 0}
    names = {"1": "l1d_bytes", "2": "l2_bytes", "3": "l3_bytes"}
    index = 0
    while (level := read_sysfs(f"cache/index{index}/level")) is not None:
        kind = (read_sysfs(f"cache/index{index}/type") or "").strip()
        size = re.fullmatch(
            r"(\d+)([KMG]?)", (read_sysfs(f"cache/index{index}/size") or "").strip()
        )
        name = names.get(level.strip())
        if size and name and kind in {"Data", "Unified"}:
            sizes[name] = int(size[1]) * _SUFFIX_BYTES[size[2]]
        index += 1
    return dict(sizes)
