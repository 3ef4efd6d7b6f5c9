from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepseek_edge.device import qemu
from deepseek_edge.errors import DeviceError, InputError, MissingToolError, UnsupportedError
from deepseek_edge.target import Target, load_target
from tests.linear_program import BATCH1, build, expected, random_input, write_sources


def target(id: str, **changes: str | None) -> Target:
    return replace(load_target(id), **changes)  # type: ignore[arg-type]


def run(library: Path, target: Target, **options: float) -> dict[str, np.ndarray]:
    options = {"timeout_s": 60, **options}
    return qemu.run(library, target, random_input(1), specs=BATCH1, **options)  # type: ignore[arg-type]


# The first of these builds dse-emulate, for which zig compiles musl: up to 40 s on two cores.
@pytest.mark.emulated
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("id", ["arm64", "raspberry-pi-5", "android-arm64"])
def test_outputs_equal_numpy(tmp_path: Path, id: str, threads: int) -> None:
    outputs = run(build(tmp_path, target(id)), target(id), threads=threads)
    reference = expected(random_input(1))
    assert list(outputs) == ["y", "z"]
    assert all((outputs[name] == reference[name]).all() for name in reference)


@pytest.mark.emulated
def test_a_core_that_lacks_a_feature_refuses_by_name(tmp_path: Path) -> None:
    library = build(tmp_path, target("arm64"), features="neon dotprod")
    run(library, target("arm64", qemu_cpu="neoverse-n1"))
    with pytest.raises(UnsupportedError, match="this CPU lacks the feature 'dotprod'"):
        run(library, target("arm64", qemu_cpu="cortex-a53"))


@pytest.mark.emulated
@pytest.mark.parametrize("id", ["arm64", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin"])
def test_qemu_has_every_feature_of_the_target(tmp_path: Path, id: str) -> None:
    library = build(tmp_path, target(id), features=" ".join(target(id).features))
    run(library, target(id))


@pytest.mark.emulated
def test_a_program_that_dies_is_an_error_that_names_the_signal(tmp_path: Path) -> None:
    library = _build_with_kernel(tmp_path, "__builtin_trap();")
    with pytest.raises(DeviceError, match=r"killed by SIG(TRAP|ILL)"):
        run(library, target("arm64"))


@pytest.mark.emulated
def test_a_kernel_that_writes_to_the_weights_dies_as_on_the_board(tmp_path: Path) -> None:
    library = _build_with_kernel(tmp_path, "((float *)w)[0] = 1;")
    with pytest.raises(DeviceError, match="killed by SIGSEGV"):
        run(library, target("arm64"))


@pytest.mark.emulated
def test_a_program_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    library = _build_with_kernel(tmp_path, "for (volatile int i = 0;;) i = 1;")
    with pytest.raises(DeviceError, match="did not end within 1 s"):
        run(library, target("arm64"), timeout_s=1)


@pytest.mark.emulated
def test_a_function_that_is_missing_is_named(tmp_path: Path) -> None:
    library = _build_with_kernel(tmp_path, "extern void abort(void); if (h[0] == 7) abort();")
    with pytest.raises(DeviceError, match="'abort', which dse-emulate lacks"):
        run(library, target("arm64"))


@pytest.mark.emulated
@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no library" * 100])
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(content)
    with pytest.raises(DeviceError, match=r"model\.so"):
        run(path, target("arm64"))


@pytest.mark.emulated
def test_a_stray_qemu_variable_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_CPU", "cortex-a53")
    library = build(tmp_path, target("arm64"), features="dotprod")
    run(library, target("arm64", qemu_cpu="neoverse-n1"))


def test_wrong_inputs_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the inputs given are"):
        qemu.run(tmp_path / "model.so", target("arm64"), {}, specs=BATCH1)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only aarch64 is emulated"):
        run(tmp_path / "model.so", target("arm64", arch="x86_64"))


def test_a_missing_qemu_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not qemu.is_available()
    with pytest.raises(MissingToolError) as error:
        run(tmp_path / "model.so", target("arm64"))
    assert error.value.hint == "apt-get install qemu-user-static"


def _build_with_kernel(directory: Path, statement: str) -> Path:
    from deepseek_edge.backends.tvm.link import link_program
    from deepseek_edge.toolchain import zig, zig_triple

    write_sources(directory)
    kernels = directory / "kernels.c"
    text = kernels.read_text(encoding="utf-8")
    start = "  linear(x, w, b, h, begin, end);"
    assert start in text
    kernels.write_text(text.replace(start, f"  {statement}\n{start}"))
    flags = ["-target", zig_triple(load_target("arm64")), "-mcpu=baseline", "-O2", "-fPIC"]
    zig(["cc", *flags, "-c", "kernels.c", "-o", "kernels.o"], cwd=directory)
    return link_program(directory, load_target("arm64"))
