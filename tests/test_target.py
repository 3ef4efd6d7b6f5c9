import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deepseek_edge import resources
from deepseek_edge.errors import MissingToolError, UnknownTargetError, UsageError
from deepseek_edge.resources import resource_dir
from deepseek_edge.target import (
    Gpu,
    check_target,
    describe_sources,
    list_targets,
    load_target,
)

DESIGN_IDS = {
    "host",
    "arm64",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-5-8gb",
    "jetson-xavier",
    "jetson-xavier-nx",
    "jetson-orin",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-orin-agx-64gb",
    "android-arm64",
    "android-arm64-dotprod",
}

# What the models of qemu-aarch64 7.2 have of the features that targets name.
QEMU_FEATURES = {
    "cortex-a72": set[str](),
    "cortex-a76": {"dotprod", "fullfp16"},
    "neoverse-n1": {"dotprod", "fullfp16"},
    "max": {"bf16", "dotprod", "fullfp16", "i8mm", "sve", "sve2"},
}

BOARD = """
name = "A board"
kind = "cpu"
arch = "aarch64"
os = "linux"
glibc = "2.36"
mcpu = "cortex-a76"
features = ["dotprod"]
vector_bits = 128
vector_registers = 32
cores = 4
l1d_bytes = 65_536
l2_bytes = 524_288
l3_bytes = 0
peak_fma_per_cycle = 8
precisions = ["float32"]
qdq = { zero_point = true }

[[sources]]
source = "The board's data sheet"
url = "https://example.com/board.pdf"
read = 2026-11-21
fields = ["mcpu", "cores", "l1d_bytes", "l2_bytes", "l3_bytes"]

[[sources]]
source = "unverified"
fields = ["peak_fma_per_cycle"]
"""


def write(folder: Path, text: str, name: str = "my-board.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_all_targets_of_the_design_are_there() -> None:
    assert set(list_targets()) >= DESIGN_IDS
    assert "cores" not in list_targets()


@pytest.mark.parametrize("id", list_targets())
def test_every_target_loads_and_passes_its_check(id: str) -> None:
    target = load_target(id)
    assert target.id == id
    unverified = check_target(resource_dir("targets") / f"{id}.toml")
    assert all(hasattr(target, field) for field in unverified)


@pytest.mark.parametrize("id", list_targets())
def test_qemu_has_every_feature_of_the_targets_it_stands_in_for(id: str) -> None:
    target = load_target(id)
    if target.qemu_cpu is not None:
        assert set(target.features) <= QEMU_FEATURES[target.qemu_cpu]


@pytest.mark.parametrize("id", [id for id in list_targets() if not id.startswith("host")])
def test_arm_targets_can_be_emulated(id: str) -> None:
    assert load_target(id).qemu_cpu is not None


@pytest.mark.emulated
def test_qemu_knows_the_cpu_models_of_all_targets() -> None:
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    assert qemu is not None
    # QEMU 7.2 exits with 1 after its help.
    listing = subprocess.run(
        [qemu, "-cpu", "help"], capture_output=True, text=True, check=False
    ).stdout.split()
    named = {load_target(id).qemu_cpu for id in list_targets()} - {None}
    assert named <= set(listing)


def test_figures_of_the_boards() -> None:
    pi_4, pi_5 = load_target("raspberry-pi-4"), load_target("raspberry-pi-5")
    orin, xavier = load_target("jetson-orin"), load_target("jetson-xavier")
    assert (pi_4.mcpu, pi_4.features, pi_4.glibc) == ("cortex-a72", (), "2.36")
    assert (pi_5.mcpu, pi_5.features) == ("cortex-a76", ("dotprod", "fullfp16"))
    assert (orin.mcpu, orin.glibc, orin.gpu) == (
        "cortex-a78ae",
        "2.31",
        Gpu("sm_87", tensorrt="10.3"),
    )
    assert (xavier.mcpu, xavier.features) == ("carmel", ("fullfp16",))
    assert xavier.gpu == Gpu("sm_72", tensorrt="8.5")
    assert [gpu.is_strongly_typed for gpu in (orin.gpu, xavier.gpu) if gpu] == [True, False]
    assert not orin.qdq.zero_point
    android = load_target("android-arm64")
    assert (android.os, android.android_api, android.glibc) == ("android", 24, None)
    assert load_target("arm64").glibc == "2.28"


def test_a_variant_keeps_what_it_does_not_say() -> None:
    base, variant = load_target("raspberry-pi-5"), load_target("raspberry-pi-5-8gb")
    assert variant.extends == base.id
    assert (variant.memory_bytes, base.memory_bytes) == (8 << 30, None)
    assert (variant.mcpu, variant.l3_bytes) == (base.mcpu, base.l3_bytes)
    assert describe_sources(variant.id)["l3_bytes"] == describe_sources(base.id)["l3_bytes"]


def test_a_variant_of_an_unverified_number_says_so_itself() -> None:
    assert describe_sources("jetson-xavier")["clock_hz"] == "unverified"
    assert "data sheet" in describe_sources("jetson-xavier-nx")["clock_hz"]


def test_the_digest_tells_targets_apart_and_repeats() -> None:
    digests = {load_target(id).digest for id in list_targets()}
    assert len(digests) == len(list_targets())
    assert load_target("arm64").digest == load_target("arm64").digest


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownTargetError) as caught:
        load_target("rasberry-pi-5")
    assert "raspberry-pi-5" in str(caught.value.hint)


def test_the_host_is_the_same_whichever_cpus_this_process_may_use() -> None:
    before, allowed = load_target("host"), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        assert load_target("host") == before
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("id", ["", "../cores", "cores", "targets/host", "HOST", "missing.toml"])
def test_what_is_no_id_is_unknown(id: str) -> None:
    with pytest.raises(UnknownTargetError):
        load_target(id)


def test_a_file_of_ones_own_is_a_target(tmp_path: Path) -> None:
    path = write(tmp_path, BOARD)
    target = load_target(str(path))
    assert (target.id, target.features) == ("my-board", ("dotprod",))
    assert check_target(path) == ["peak_fma_per_cycle"]
    assert describe_sources(str(path))["cores"] == (
        "The board's data sheet (https://example.com/board.pdf)"
    )


def test_a_file_of_ones_own_may_extend_a_known_target(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "Two cores"\nextends = "host"\ncores = 1\n'
                 '[[sources]]\nsource = "unverified"\nfields = ["cores"]\n')  # fmt: skip
    assert load_target(str(path)).cores == 1
    assert load_target(str(path)).mcpu == load_target("host").mcpu


def test_a_file_of_ones_own_may_extend_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, BOARD, "base.toml")
    path = write(tmp_path, 'name = "Refined"\nextends = "base"\nfeatures = ["fullfp16"]\n')
    assert load_target(str(path)).features == ("fullfp16",)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("cores = 4", "cores = 4\ncoress = 4", "unknown key 'coress'"),
        ("cores = 4\n", "", "cores"),
        ("cores = 4", "cores = 0", r"cores"),
        ("cores = 4", 'cores = "4"', r"cores"),
        ("cores = 4", "cores = 4.0", r"cores"),
        ("cores = 4", "cores = true", r"cores"),
        ("l1d_bytes = 65_536", "l1d_bytes = 64", "l1d_bytes"),
        ("vector_bits = 128", "vector_bits = 100", "vector_bits"),
        ('precisions = ["float32"]', 'precisions = ["float64"]', "precisions"),
        ('arch = "aarch64"', 'arch = "riscv64"', "arch"),
        ('arch = "aarch64"', 'arch = "x86_64"', "no x86_64 core is called 'cortex-a76'"),
        ("cortex-a76", "cortex-a72", "cortex-a72 has no dotprod"),
        ("cortex-a76", "carmel", "carmel has no dotprod"),
        ("cortex-a76", "cortex-a67", "no aarch64 core is called 'cortex-a67'"),
        ('"dotprod"', '"i8mm"', "cortex-a76 has no i8mm"),
        ('"2.36"', '"2.27"', "glibc 2.27 is older than 2.28"),
        ('"2.36"', '"3"', "glibc"),
        ('glibc = "2.36"\n', "", "has a glibc"),
        ('os = "linux"', 'os = "android"', "has a glibc"),
        ("zero_point = true", "zero_points = true", "zero_point"),
        ("read = 2026-11-21\n", "", "does not say when it was read"),
        ('"cores", ', "", "no source for cores"),
        ('"cores", ', '"cores", "cores", ', "names a source for 'cores' twice"),
        ('"cores", ', '"cores", "clock_hz", ', "names a source for 'clock_hz' but"),
        ("[[sources]]\nsource = ", "[[sources]]\nsourced = ", "sourced"),
        ("cores = 4", "cores = [", "line 12"),
        ('name = "A board"', 'name = "A board', "line 2"),
        ('name = "A board"', 'name = "A board"\nextends = "nowhere"', "nowhere"),
        ('name = "A board"', 'name = "A board"\nextends = 3', "extends"),
    ],
)
def test_a_file_that_can_not_be_meant_is_refused(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    assert old in BOARD
    path = write(tmp_path, BOARD.replace(old, new, 1))
    with pytest.raises(UsageError, match=fault):
        check_target(path)
    with pytest.raises(UsageError, match=fault):
        load_target(str(path))


def test_a_parent_may_not_extend_another(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "Grandchild"\nextends = "raspberry-pi-5-8gb"\n')
    with pytest.raises(UsageError, match="which itself extends 'raspberry-pi-5'"):
        check_target(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00", b""])
def test_bytes_that_are_no_target_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my-board.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"my-board\.toml"):
        check_target(path)


def test_an_id_must_fit_a_file_name_everywhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\$\.id"):
        check_target(write(tmp_path, BOARD, "My Board.toml"))


@pytest.mark.tvm
def test_the_table_of_cores_says_what_llvm_says() -> None:
    import msgspec
    import tvm
    from tvm.target import codegen

    table = msgspec.toml.decode((resource_dir("targets") / "cores.toml").read_text())
    distinguished = set(table["baselines"]["generic"]["features"])
    for name, core in table["aarch64"].items():
        target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": name})
        of_llvm = set(map(str, codegen.llvm_get_cpu_features(target)))
        assert set(core["features"]) == of_llvm & distinguished, name


def test_the_wheel_s_data_come_before_what_lies_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "deepseek_edge"
    for folder in (package / "_data" / "targets", tmp_path / "targets", tmp_path / "calibration"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert resource_dir("targets") == package / "_data" / "targets"
    assert resource_dir("calibration") == tmp_path / "calibration"
    with pytest.raises(MissingToolError, match="recipes"):
        resource_dir("recipes")
