import json
import shutil
from pathlib import Path

import pytest

from benchmarks.arm import geometric_means, instruction_row, select, write_report
from benchmarks.arm_count import build_emulator, count_program, parse_counts
from benchmarks.arm_loops import inner_loops, parse_disassembly
from benchmarks.arm_model import VERSIONS, loop_cycles, multiplier_limit
from benchmarks.arm_root import describe_cpu
from benchmarks.cell import Cell
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.target import load_target
from deepseek_edge.toolchain import static_triple, zig

COUNTS = """mark 1000 4096
mark 1700 4096
mark 2300 4096
mark 2900 4096
mark 3500 4096
block 4096 2 8
block 4104 1 4
block 9000 1 7
"""


def test_first_runs_are_left_out_of_the_count() -> None:
    counts = parse_counts(COUNTS)
    assert counts.runs == (700, 600, 600, 600)
    assert counts.per_inference == 600.0


def test_executions_of_blocks_become_those_of_instructions() -> None:
    counts = parse_counts(COUNTS)
    assert counts.by_address(4096, 5000) == {0: 2.0, 4: 2.0, 8: 1.0}


def test_a_program_without_an_inference_is_an_error() -> None:
    with pytest.raises(DeepSeekEdgeError, match="before its first inference"):
        parse_counts("mark 1000 4096\n")


def test_selectors_leave_out_what_they_do_not_name() -> None:
    assert select(["resnet-18:raspberry-pi-4:int8"]) == [
        Cell("resnet-18", "raspberry-pi-4", "int8")
    ]
    assert len(select([])) == 20
    assert len(select(["::int8"])) == 10
    with pytest.raises(UsageError, match="is no cell"):
        select(["resnet-18:jetson"])


def test_ratio_is_to_the_peer_with_the_fewest_instructions() -> None:
    row = instruction_row(90.0, {"onnxruntime": 100.0, "ncnn": 80.0})
    assert (row["ratios"], row["ratio"]) == ({"onnxruntime": 0.9, "ncnn": 1.125}, 1.125)
    row = instruction_row(90.0, {"onnxruntime": 100.0, "ncnn": "no Q/DQ import"})
    assert row["peers_instructions"] == {"onnxruntime": 100, "ncnn": None}
    assert (row["reasons"], row["ratio"]) == ({"ncnn": "no Q/DQ import"}, 0.9)


def test_geometric_means_are_of_hot_loops_only(tmp_path: Path) -> None:
    core = {"mcpu": "cortex-a72", "precision": "int8"}
    rows = [
        {**core, "cycles_over_limit": 1.0, "hot": True},
        {**core, "cycles_over_limit": 4.0, "hot": True},
        {**core, "cycles_over_limit": 100.0, "hot": False},
        {**core, **instruction_row(90.0, {"onnxruntime": 100.0, "ncnn": "none"})},
    ]
    assert geometric_means(rows) == {
        "cycles_over_limit": 2.0,
        "instructions": 0.9,
        "cycles_over_limit-cortex-a72-int8": 2.0,
        "instructions-onnxruntime": 0.9,
        "instructions-ncnn": None,
    }
    write_report(tmp_path / "arm.json", rows, None, {})
    assert json.loads((tmp_path / "arm.json").read_text())["rows"] == rows


def test_programs_in_the_root_see_the_core_of_the_target(tmp_path: Path) -> None:
    describe_cpu(tmp_path, load_target("raspberry-pi-5"))
    assert "CPU part\t: 0xd0b" in (tmp_path / "proc/cpuinfo").read_text()
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index2"
    assert (cache / "size").read_text() == "512K\n"


@pytest.mark.skipif(
    not any(shutil.which(f"llvm-mca-{version}") for version in VERSIONS), reason="needs LLVM 19"
)
def test_models_differ_in_their_multipliers() -> None:
    lines = [f"{4 * n:x}:  fmla v{n}.4s, v30.4s, v31.4s" for n in range(16)]
    text = "\n".join(["0000 <k>:", *lines, "40:  subs x8, x8, #0x1", "44:  b.ne 0x0 <k>"])
    (loop,) = inner_loops("k", parse_disassembly(text)["k"])
    assert multiplier_limit(loop.body, "cortex-a72") == 16.0
    assert multiplier_limit(loop.body, "neoverse-n1") == 8.0
    for mcpu, limit in (("cortex-a72", 16.0), ("neoverse-n1", 8.0)):
        assert limit <= loop_cycles(loop.body, mcpu) < 1.1 * limit


COUNTED = r"""
int main(void) {
  for (int run = 0; run < 3; run++) {
    register long x0 __asm__("x0") = 4096;
    register long x8 __asm__("x8") = 173;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8));
    if (run == 2) break;
    __asm__ volatile("mov x9, 1000\n0: subs x9, x9, 1\n b.ne 0b" ::: "x9", "cc");
  }
}
"""


@pytest.mark.emulated
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs qemu-user")
def test_every_executed_instruction_is_counted(tmp_path: Path) -> None:
    emulator = build_emulator(tmp_path)
    (tmp_path / "loop.c").write_text(COUNTED)
    zig(
        ["cc", "-target", static_triple("aarch64"), "-static", "-O2", "loop.c", "-o", "loop"],
        tmp_path,
    )
    counts = count_program(emulator, load_target("raspberry-pi-4"), [str(tmp_path / "loop")])
    assert counts.address == 4096
    assert len(counts.runs) == 2
    assert all(2001 <= run <= 2020 for run in counts.runs)
