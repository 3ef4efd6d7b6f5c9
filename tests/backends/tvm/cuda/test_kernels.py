"""The kernels of CUDA programs, emulated on the CPU: float ones against onnxruntime, int8 ones
against the CPU program, which they equal."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is the extra cuda")

from deepseek_edge.backends.tvm.cuda import compile_cuda_program
from deepseek_edge.errors import DeviceError, UnsupportedError
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from tests.backends.tvm import oracle
from tests.backends.tvm.cuda.emulation import (
    compiled,
    computed,
    driver,
    gpu_target,
    running,
)
from tests.backends.tvm.oracle import Cases, Const, difference, reference

Array = NDArray[Any]
# Half floats carry 11 bits; sums are of float32.
TOLERANCES = {"float32": 1e-4, "float16": 5e-3}


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def add_products(c: Cases) -> None:
    bias = Const(normal(16))
    y = c.inner("Conv", normal(1, 8, 9, 9), Const(normal(16, 8, 3, 3)), bias, pads=[1, 1, 1, 1])
    c.add("Relu", y)
    c.add(
        "Conv", normal(2, 3, 13, 11), Const(normal(24, 3, 3, 3)), strides=[2, 2], pads=[0, 1, 1, 0]
    )
    c.add("Conv", normal(1, 12, 7, 7), Const(normal(20, 6, 3, 3)), group=2, dilations=[2, 2])
    c.add("Conv", normal(1, 24, 7, 7), Const(normal(24, 1, 3, 3)), group=24, pads=[1, 1, 1, 1])
    c.add("Conv", normal(1, 5, 6, 6), Const(normal(5, 1, 3, 3)), group=5, strides=[2, 2])
    c.add("Conv", normal(1, 16, 9, 8), Const(normal(24, 16, 1, 1)), strides=[2, 3])
    c.add("Conv", normal(1, 5, 9), Const(normal(7, 5, 3)), pads=[1, 1])
    y = c.inner("Conv", normal(1, 64, 5, 5), Const(normal(40, 64, 1, 1)))
    y = c.inner("Add", y, normal(1, 40, 1, 1))
    c.add("Mul", y, normal(1, 1, 5, 5))
    c.add("ConvTranspose", normal(1, 4, 5, 5), Const(normal(4, 6, 3, 3)), strides=[2, 2])
    c.add("MatMul", normal(3, 50), Const(normal(50, 17)))
    c.add("MatMul", normal(2, 1, 3, 50), normal(4, 50, 7))
    c.add("Gemm", normal(1, 300), Const(normal(10, 300)), Const(normal(10)), transB=1)


def add_windows_and_rows(c: Cases) -> None:
    window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    c.add("MaxPool", normal(1, 4, 9, 9), **window)
    c.add("AveragePool", normal(1, 4, 9, 9), **window)
    c.add("GlobalAveragePool", normal(1, 8, 7, 7))
    c.add("LRN", normal(1, 6, 3, 3), size=3)
    scales = Const(np.array([1, 1, 2, 1.5], np.float32))
    c.add("Resize", normal(1, 4, 5, 6), None, scales, mode="linear")
    c.add("Softmax", normal(3, 50), axis=1)
    c.add("LogSoftmax", normal(3, 7), axis=1)
    c.add("LayerNormalization", normal(3, 50), Const(normal(50)), Const(normal(50)))
    c.add("ReduceMax", normal(3, 40), axes=[1])
    c.add("ReduceMean", normal(3, 4, 5), axes=[0, 1])
    c.add("ReduceSum", normal(2, 1500), Const(np.array([1], np.int64)))
    c.add("Softmax", normal(2, 1500), axis=1)
    c.add("GlobalAveragePool", normal(2, 40, 10, 9))
    c.add("ReduceMin", normal(2, 70, 33), axes=[1])
    c.add("ArgMax", normal(3, 40), axis=1)


def add_elements_and_moves(c: Cases) -> None:
    c.add("Add", normal(3, 4, 5), normal(4, 1))
    for op in ("Sigmoid", "HardSwish", "Erf", "Tanh", "Exp", "Softplus"):
        c.add(op, normal(3, 4))
    c.add("Cast", normal(3, 4) * 9, to=onnx.TensorProto.INT32)
    c.add("Where", normal(3, 4) > 0, normal(3, 4), normal(4, seed=1))
    c.add("Concat", normal(3, 4, 5), normal(3, 2, 5), axis=1)
    c.add("Transpose", normal(3, 4, 5), perm=[2, 0, 1])
    c.add("Gather", normal(5, 4), np.array([0, -1, 3], np.int64))
    c.add("Pad", normal(3, 4), Const(np.array([1, 0, 2, 1], np.int64)), mode="reflect")
    ends = [Const(np.array([number], np.int64)) for number in (1, 9, 1, 2)]
    c.add("Slice", normal(3, 8), *ends)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("add", [add_products, add_windows_and_rows, add_elements_and_moves])
def test_float_operators_compute_what_onnxruntime_does(
    tmp_path: Path, precision: str, add: Any
) -> None:
    cases = Cases()
    add(cases)
    model, folder = cases.model(), tmp_path / "program"
    folder.mkdir()
    actual = computed(model, cases.feeds, folder, precision=precision)
    expected = reference(model, cases.feeds)
    wrong = {
        name: found
        for name in expected
        if (found := difference(expected[name], actual[name], TOLERANCES[precision])) is not None
    }
    assert not wrong


def quantized_net() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Every kind of integer layer, a residual and a pooling between them."""
    c = Cases()
    y = c.inner("Conv", normal(1, 3, 20, 20), Const(normal(16, 3, 3, 3) / 5), Const(normal(16)),
                pads=[1, 1, 1, 1], strides=[2, 2])  # fmt: skip
    y = c.inner("Relu", y)
    y = c.inner("Conv", y, Const(normal(24, 16, 1, 1) / 4), Const(normal(24)))
    y = c.inner("Clip", y, Const(np.float32(0)), Const(np.float32(6)))
    z = c.inner("Conv", y, Const(normal(24, 1, 3, 3) / 3), group=24, pads=[1, 1, 1, 1])
    z = c.inner("Conv", c.inner("Relu", z), Const(normal(24, 24, 3, 3) / 10), pads=[1, 1, 1, 1])
    y = c.inner("Relu", c.inner("Add", y, z))
    y = c.inner("Conv", y, Const(normal(32, 6, 3, 3) / 10), group=4, pads=[1, 1, 1, 1])
    y = c.inner("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = c.inner("Flatten", c.inner("GlobalAveragePool", y))
    c.add("Gemm", y, Const(normal(10, 32) / 5), Const(normal(10)), transB=1)
    model, (name,) = c.model(), c.feeds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = Quantizer(model, QuantConfig(rounding="nearest"))
        samples = [{name: normal(1, 3, 20, 20, seed=i)} for i in range(8)]
        return quantizer.calibrate(samples).quantize().model, c.feeds


@pytest.mark.parametrize("arch", ["sm_72", "sm_87"])
def test_integer_layers_give_the_integers_of_the_cpu_program(tmp_path: Path, arch: str) -> None:
    model, feeds = quantized_net()
    folder = tmp_path / "program"
    folder.mkdir()
    actual = computed(model, feeds, folder, gpu_target(arch, 8))
    expected = oracle.computed(model, feeds)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
    text = (folder / "kernels.cu").read_text()
    assert ("dse_mma_gemm<S>" in text) == (arch == "sm_87")
    # A GPU's assembler fuses "mul.f32" with what follows, whatever stands between them in C++.
    assert "__fmul_rn(a, b)" in text and text.count("dse_product(") > 1


def test_blocks_that_share_a_sum_add_it_in_one_order(tmp_path: Path) -> None:
    c = Cases()
    c.add("Conv", normal(1, 256, 4, 4), Const(normal(32, 256, 3, 3)), pads=[1, 1, 1, 1])
    folder = tmp_path / "program"
    folder.mkdir()
    actual = computed(c.model(), c.feeds, folder, precision="float16", runs=3)
    (name,) = actual
    assert difference(reference(c.model(), c.feeds)[name], actual[name], 5e-3) is None
    text = (folder / "kernels.cu").read_text()
    assert "SPLITS = 1;" not in text and "SPLITS = " in text


@pytest.mark.parametrize("arch", ["sm_72", "sm_80", "sm_87", "sm_90"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_kernel_compiles_for_every_gpu(tmp_path: Path, arch: str, precision: str) -> None:
    cases = Cases()
    for add in (add_products, add_windows_and_rows, add_elements_and_moves):
        add(cases)
    program = compiled(cases.model(), tmp_path, gpu_target(arch, 8), precision=precision)
    assert program.id == f"cuda-{precision}"
    assert (program.layers.float16, program.layers.float32)[precision == "float32"] > 0


def test_the_same_model_gives_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    libraries = []
    for name in ("a", "another"):
        cases = Cases()
        add_products(cases)
        (tmp_path / name).mkdir()
        program = compiled(cases.model(), tmp_path / name, precision="float16")
        libraries.append(program.library.read_bytes())
    assert libraries[0] == libraries[1]


def test_images_are_read_in_steps_and_by_four_channels(tmp_path: Path) -> None:
    cases = Cases()
    y = cases.inner("Conv", normal(1, 3, 9, 9), Const(normal(16, 3, 3, 3)))
    cases.add("Conv", y, Const(normal(24, 16, 1, 1)), strides=[2, 2])
    (entry,) = compiled(cases.model(), tmp_path, precision="float16").entries
    # Without tensor cores' rewriting: Conv, Slice, Conv, Transpose.
    assert [step.op for step in entry.steps] == ["Pack", "Conv", "Conv", "Transpose"]


def test_a_target_without_a_gpu_is_refused(tmp_path: Path) -> None:
    cases = Cases()
    cases.add("Relu", normal(3))
    with pytest.raises(UnsupportedError, match="raspberry-pi-5 has no GPU"):
        compiled(cases.model(), tmp_path, load_target("raspberry-pi-5"), precision=None)


def test_a_gpu_without_kernels_is_refused(tmp_path: Path) -> None:
    cases = Cases()
    cases.add("Relu", normal(3))
    target = gpu_target("sm_120", 8)
    with pytest.raises(UnsupportedError, match="no kernels for sm_120"):
        compiled(cases.model(), tmp_path, target, precision=None)


def test_batches_share_weights(tmp_path: Path) -> None:
    cases = Cases()
    cases.add("Conv", normal(1, 8, 5, 5), Const(normal(64, 8, 3, 3)))
    programs = {}
    for batches in ((1,), (1, 4)):
        folder = tmp_path / str(len(batches))
        folder.mkdir()
        programs[batches] = compile_cuda_program(
            cases.model(),
            dataclasses.replace(gpu_target()),
            batches=batches,
            work_dir=folder,
            progress=lambda stage, done, total: None,
        )
    assert [entry.name for entry in programs[1, 4].entries] == ["batch1", "batch4"]
    added = programs[1, 4].weights_bytes - programs[1,].weights_bytes
    assert added < 64 * 8 * 9  # tiles may be cut otherwise, weights aren't stored again


def test_entries_leave_each_others_counters_alone(tmp_path: Path) -> None:
    c = Cases()
    c.add("Conv", normal(1, 256, 4, 4), Const(normal(32, 256, 3, 3)), pads=[1, 1, 1, 1])
    program = compile_cuda_program(
        c.model(),
        gpu_target(),
        batches=(1, 2),
        work_dir=tmp_path,
        progress=lambda stage, done, total: None,
    )
    (name,), (one,) = c.feeds, c.feeds.values()
    with running(program.library, tmp_path) as engine:
        first = engine.run({name: one})
        engine.run({name: np.concatenate([one, one])}, entry=1)
        again = engine.run({name: one})
    for output, value in first.items():
        np.testing.assert_array_equal(again[output], value)


def test_the_engine_says_what_the_machine_lacks(tmp_path: Path) -> None:
    c = Cases()
    c.add("Relu", normal(4))
    library = compiled(c.model(), tmp_path, precision=None).library
    fake = driver()
    for version, sm, message in (
        (11040, 90, "the driver is for CUDA 11.4; this program needs one for CUDA 12.0"),
        (13000, 0, "the NVIDIA driver sees no GPU"),
        (13000, 80, "the GPU has compute capability 8.0; this program is for 9.0"),
    ):
        fake.fake_reset(version, sm)
        with pytest.raises(UnsupportedError, match=message):
            Engine(library)
    with running(library, tmp_path) as engine:
        fake.fake_fail(3, 719)
        with pytest.raises(DeviceError, match="cuLaunchKernel: injected"):
            engine.run(c.feeds)
        fake.fake_fail(0, 0)
