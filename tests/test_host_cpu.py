"""Each text is what the kernel of such a machine shows, without the lines that nobody reads."""

import pytest

from deepseek_edge.errors import UnsupportedError
from deepseek_edge.host_cpu import ArmCore, describe_cpu

ARM_CORES = [
    ArmCore("cortex-a76", 0x41, 0xD0B, frozenset({"dotprod", "fullfp16"}), 8),
    ArmCore(
        "neoverse-v1", 0x41, 0xD40, frozenset({"bf16", "dotprod", "fullfp16", "i8mm", "sve"}), 16
    ),
]

X86_BASE = "fpu sse sse2 syscall nx lm constant_tsc rep_good nopl pni pclmulqdq"
X86_V2 = f"{X86_BASE} ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
X86_V3 = f"{X86_V2} fma movbe aes xsave avx f16c rdrand abm bmi1 avx2 bmi2"
ZEN_3 = f"{X86_V3} sse4a misalignsse 3dnowprefetch clwb sha_ni vaes vpclmulqdq"
ZEN_5 = (
    f"{X86_V3} avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx_vnni avx512_bf16 "
    "avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_vp2intersect"
)
ALDER_LAKE = f"{X86_V3} sha_ni avx_vnni umip waitpkg gfni vaes serialize"

PI_5 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
GRAVITON_3 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg "
    "dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
)


def x86_cpuinfo(
    vendor: str, family: int, flags: str, cores: list[int], bogomips: str = "5192.24"
) -> str:
    return "\n".join(
        f"processor\t: {number}\nvendor_id\t: {vendor}\ncpu family\t: {family}\n"
        f"cpu MHz\t\t: 1497.0{number}\nphysical id\t: 0\ncore id\t\t: {core}\n"
        f"flags\t\t: {flags}\nbogomips\t: {bogomips}\npower management:\n"
        for number, core in enumerate(cores)
    )


def arm_cpuinfo(part: str, features: str, count: int = 4) -> str:
    return "\n".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\n"
        f"CPU part\t: {part}\nCPU revision\t: 1\n"
        for number in range(count)
    )


def describe(
    machine: str,
    cpuinfo: str,
    sysfs: dict[str, str] | None = None,
    allowed: range = range(64),
) -> dict[str, object]:
    return describe_cpu(machine, cpuinfo, (sysfs or {}).get, allowed, ARM_CORES)


def test_zen_3_has_avx2_and_no_vnni() -> None:
    cpu = describe("x86_64", x86_cpuinfo("AuthenticAMD", 25, ZEN_3, [0, 1]))
    assert cpu["mcpu"] == "x86-64-v3"
    assert cpu["features"] == ["avx2", "bmi2", "f16c", "fma", "lzcnt", "movbe"]
    assert (cpu["vector_bits"], cpu["vector_registers"]) == (256, 16)
    assert (cpu["cores"], cpu["peak_fma_per_cycle"]) == (2, 16)


def test_zen_5_has_avx512_and_both_vnni() -> None:
    cpu = describe("x86_64", x86_cpuinfo("AuthenticAMD", 26, ZEN_5, [0, 1]))
    assert cpu["mcpu"] == "x86-64-v4"
    assert isinstance(cpu["features"], list)
    assert {"avx512f", "avx512vl", "avx512vnni", "avxvnni", "avx2", "fma"} < set(cpu["features"])
    assert (cpu["vector_bits"], cpu["vector_registers"]) == (512, 32)
    assert cpu["peak_fma_per_cycle"] == 32


def test_zen_4_runs_512_bits_in_two_halves() -> None:
    cpu = describe("x86_64", x86_cpuinfo("AuthenticAMD", 25, ZEN_5, [0]))
    assert (cpu["vector_bits"], cpu["peak_fma_per_cycle"]) == (512, 16)


def test_alder_lake_has_avx_vnni_without_avx512() -> None:
    cpu = describe("x86_64", x86_cpuinfo("GenuineIntel", 6, ALDER_LAKE, [0, 4, 8]))
    assert cpu["mcpu"] == "x86-64-v3"
    assert isinstance(cpu["features"], list)
    assert "avxvnni" in cpu["features"]
    assert not any(name.startswith("avx512") for name in cpu["features"])


def test_avx512_without_all_of_level_4_is_not_used() -> None:
    flags = ZEN_5.replace("avx512vl", "")
    cpu = describe("x86_64", x86_cpuinfo("GenuineIntel", 6, flags, [0]))
    assert (cpu["mcpu"], cpu["vector_bits"]) == ("x86-64-v3", 256)


@pytest.mark.parametrize(
    ("flags", "mcpu", "features"),
    [(X86_V2, "x86-64-v2", ["popcnt", "sse4.2", "ssse3"]), (X86_BASE, "x86-64", [])],
)
def test_old_x86_takes_128_bit_vectors(flags: str, mcpu: str, features: list[str]) -> None:
    cpu = describe("x86_64", x86_cpuinfo("GenuineIntel", 6, flags, [0]))
    assert (cpu["mcpu"], cpu["features"]) == (mcpu, features)
    assert (cpu["vector_bits"], cpu["peak_fma_per_cycle"]) == (128, 4)


def test_threads_of_one_core_count_once() -> None:
    cpu = describe("x86_64", x86_cpuinfo("GenuineIntel", 6, ALDER_LAKE, [0, 0, 1, 1]))
    assert cpu["cores"] == 2


def test_only_allowed_processors_count() -> None:
    cpuinfo = x86_cpuinfo("GenuineIntel", 6, ALDER_LAKE, [0, 1, 2, 3])
    assert describe("x86_64", cpuinfo, allowed=range(1, 3))["cores"] == 2


def test_clock_of_x86_is_the_nominal_one_and_not_the_momentary_one() -> None:
    cpu = describe("x86_64", x86_cpuinfo("GenuineIntel", 6, X86_V3, [0], bogomips="4992.0"))
    assert cpu["clock_hz"] == 2_500_000_000


def test_raspberry_pi_5_is_a_cortex_a76() -> None:
    sysfs = {"cpufreq/cpuinfo_max_freq": "2400000\n"}
    cpu = describe("aarch64", arm_cpuinfo("0xd0b", PI_5), sysfs)
    assert cpu["mcpu"] == "cortex-a76"
    assert cpu["features"] == ["dotprod", "fullfp16"]
    assert (cpu["cores"], cpu["clock_hz"]) == (4, 2_400_000_000)
    assert cpu["peak_fma_per_cycle"] == 8


def test_graviton_3_is_a_neoverse_v1() -> None:
    cpu = describe("aarch64", arm_cpuinfo("0xd40", GRAVITON_3))
    assert cpu["mcpu"] == "neoverse-v1"
    assert cpu["features"] == ["bf16", "dotprod", "fullfp16", "i8mm", "sve"]


def test_a_core_with_a_feature_masked_is_not_called_by_its_name() -> None:
    masked = GRAVITON_3.replace(" sve ", " ")
    cpu = describe("aarch64", arm_cpuinfo("0xd40", masked))
    assert cpu["mcpu"] == "generic"
    assert cpu["features"] == ["bf16", "dotprod", "fullfp16", "i8mm"]


def test_two_kinds_of_cores_share_the_features_both_have() -> None:
    big = arm_cpuinfo("0xd0b", PI_5, 1)
    little = arm_cpuinfo("0xd03", "fp asimd crc32 cpuid", 1).replace(": 0\n", ": 1\n", 1)
    cpu = describe("aarch64", f"{little}\n{big}")
    assert (cpu["mcpu"], cpu["features"]) == ("generic", [])


def test_caches_come_from_sysfs() -> None:
    sysfs: dict[str, str] = {}
    for index, (level, kind, size) in enumerate(
        [
            ("1", "Data", "48K"),
            ("1", "Instruction", "32K"),
            ("2", "Unified", "1024K"),
            ("3", "Unified", "32M"),
        ]
    ):
        sysfs |= {
            f"cache/index{index}/level": f"{level}\n",
            f"cache/index{index}/type": f"{kind}\n",
            f"cache/index{index}/size": f"{size}\n",
        }
    cpu = describe("x86_64", x86_cpuinfo("AuthenticAMD", 26, ZEN_5, [0]), sysfs)
    assert cpu["l1d_bytes"] == 48 * 1024
    assert cpu["l2_bytes"] == 1024 * 1024
    assert cpu["l3_bytes"] == 32 * 1024 * 1024


def test_a_kernel_that_shows_no_caches_is_given_small_ones() -> None:
    cpu = describe("aarch64", arm_cpuinfo("0xd0b", PI_5))
    assert (cpu["l1d_bytes"], cpu["l2_bytes"], cpu["l3_bytes"]) == (32 << 10, 256 << 10, 0)


@pytest.mark.parametrize("machine", ["riscv64", "armv7l", "ppc64le"])
def test_other_machines_are_refused_by_name(machine: str) -> None:
    with pytest.raises(UnsupportedError, match=machine):
        describe(machine, arm_cpuinfo("0xd0b", PI_5))


def test_a_cpuinfo_without_processors_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cpuinfo"):
        describe("x86_64", "garbage\n\n: :\n")
