from typing import Any

import msgspec
import pytest

from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.manifest import ProgramRecord
from deepseek_edge.pipeline.program_choice import choose_program, runs_on
from tests.bundle_samples import make_manifest

(CPU,) = make_manifest()[0].programs


def program(id: str, **changes: Any) -> ProgramRecord:
    return msgspec.structs.replace(CPU, id=id, **changes)


ENGINE = program("tensorrt-int8", backend="tensorrt", gpu="sm_87")
CUDA = program("cuda-int8", gpu="sm_87")
ALL = (ENGINE, CUDA, CPU)
NO_ENGINE = {ENGINE.id: "not built"}


def test_without_a_gpu_the_cpu_program_runs_and_it_is_said_why() -> None:
    choice = choose_program(ALL, "host", (), {})
    assert choice.record is CPU
    assert [line.split(":")[0] for line in choice.passed_over] == ["tensorrt-int8", "cuda-int8"]
    assert "no NVIDIA GPU" in choice.passed_over[1]


def test_a_program_for_this_gpu_comes_before_the_cpus() -> None:
    assert choose_program(ALL, "host", ("sm_87",), NO_ENGINE).record is CUDA


def test_an_engine_that_was_built_here_comes_first() -> None:
    assert choose_program(ALL, "host", ("sm_87",), {}).record is ENGINE


def test_without_its_engine_tensorrts_program_is_passed_over() -> None:
    choice = choose_program(ALL, "host", ("sm_87",), NO_ENGINE)
    assert choice.passed_over == ("tensorrt-int8: not built",)
    with pytest.raises(UnsupportedError, match="tensorrt-int8: not built"):
        choose_program(ALL, "host", ("sm_87",), NO_ENGINE, wanted=ENGINE.id)


def test_without_a_gpu_an_engine_is_not_missed() -> None:
    assert "no NVIDIA GPU" in choose_program(ALL, "host", (), NO_ENGINE).passed_over[0]


def test_another_gpu_is_named() -> None:
    choice = choose_program(ALL, "host", ("sm_90",), {})
    assert choice.record is CPU
    assert choice.passed_over[1] == "cuda-int8: it is for sm_87, here is sm_90"


def test_qemu_has_no_gpu() -> None:
    assert choose_program(ALL, "qemu", ("sm_87",), {}).record is CPU


def test_a_wanted_program_is_taken_or_refused_with_the_reason() -> None:
    assert choose_program(ALL, "host", ("sm_87",), NO_ENGINE, wanted=CPU.id).record is CPU
    with pytest.raises(UnsupportedError, match="cuda-int8: there is no NVIDIA GPU"):
        choose_program(ALL, "host", (), {}, wanted="cuda-int8")
    with pytest.raises(UsageError, match="no program fast"):
        choose_program(ALL, "host", (), {}, wanted="fast")


@pytest.mark.parametrize(
    ("cubin", "gpu", "runs"),
    [
        ("sm_87", "sm_87", True),
        ("sm_80", "sm_86", True),
        ("sm_87", "sm_86", False),
        ("sm_87", "sm_90", False),
        ("sm_72", "sm_75", True),
        ("sm_90", "sm_103", False),
        ("sm_103a", "sm_103", True),
    ],
)
def test_machine_code_runs_on_the_same_major_and_no_older_minor(
    cubin: str, gpu: str, runs: bool
) -> None:
    assert runs_on(cubin, gpu) is runs
