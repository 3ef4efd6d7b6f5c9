import locale

import pytest

pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is the extra cuda")

from deepseek_edge.backends.tvm.cuda.cubin import check_cubin, read_cubin
from deepseek_edge.backends.tvm.cuda.nvrtc import compile_cubin, toolkit_of
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError

ADD = 'extern "C" __global__ void add(float *x) { x[threadIdx.x] += 1; }\n'
ARCHES = ("sm_72", "sm_87", "sm_90")


@pytest.mark.parametrize("arch", ARCHES)
def test_a_cubin_is_for_the_gpu_it_was_compiled_for_and_has_no_ptx(arch: str) -> None:
    found = read_cubin(compile_cubin(ADD, arch))
    assert f"sm_{found.sm}" == arch
    assert found.kernels == ("add",)
    assert not found.has_ptx


def test_the_same_text_gives_the_same_bytes() -> None:
    assert compile_cubin(ADD, "sm_87") == compile_cubin(ADD, "sm_87")


def test_the_code_of_jetsons_comes_from_the_toolkit_that_their_oldest_driver_knows() -> None:
    assert toolkit_of("sm_72").driver_version == 11000
    assert toolkit_of("sm_87").driver_version == 11000
    assert toolkit_of("sm_90").driver_version == 12000


def test_text_that_does_not_compile_is_refused_with_the_compilers_words() -> None:
    with pytest.raises(DeepSeekEdgeError, match=r"NVRTC refused the kernels: .*nonsense"):
        compile_cubin('extern "C" __global__ void f() { nonsense; }', "sm_87")


def test_a_missing_compiler_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="NVRTC 11") as caught:
        compile_cubin(ADD, "sm_87")
    assert caught.value.hint == "pip install 'deepseek-edge[cuda]'"


@pytest.mark.parametrize("arch", ["sm_72", "sm_90"])
def test_compiling_leaves_the_locale_as_it_was(arch: str) -> None:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        compile_cubin(ADD, arch)
        assert locale.setlocale(locale.LC_ALL) == "C.UTF-8"
        # Of this thread, which the process's doesn't tell.
        assert locale.nl_langinfo(locale.CODESET) == "UTF-8"
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_code_for_another_gpu_or_without_a_kernel_is_refused() -> None:
    cubin = compile_cubin(ADD, "sm_87")
    check_cubin(cubin, "sm_87", ("add",))
    with pytest.raises(DeepSeekEdgeError, match="is for sm_87, not sm_90"):
        check_cubin(cubin, "sm_90", ("add",))
    with pytest.raises(DeepSeekEdgeError, match="lacks multiply"):
        check_cubin(cubin, "sm_87", ("add", "multiply"))


def test_a_cubin_that_is_cut_off_anywhere_is_refused() -> None:
    cubin = compile_cubin(ADD, "sm_87")
    for length in (0, 4, 63, 64, len(cubin) // 2):
        with pytest.raises(DeepSeekEdgeError, match=r"cut off|no ELF"):
            read_cubin(cubin[:length])
    with pytest.raises(DeepSeekEdgeError, match="no ELF file for CUDA"):
        read_cubin(b"\0" * len(cubin))
