import ctypes
import struct
from pathlib import Path

import pytest

from deepseek_edge.errors import (
    DeepSeekEdgeError,
    DeviceError,
    InputError,
    ModelError,
    UnsupportedError,
)
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.runtime.engine_runner import EngineRunner
from deepseek_edge.tensors import TensorSpec
from tests.runtime.cuda_stub import FakeRuntime

X = struct.pack("<3f", 1.0, -2.0, 0.5)
TWICE = struct.pack("<3f", 2.0, -4.0, 1.0)


def test_a_driver_describes_its_gpu(driver: CudaDriver) -> None:
    found = (driver.name, driver.compute_capability, driver.version, driver.free_bytes())
    assert found == ("Orin", "8.7", "12.6", 1000)


def test_bytes_come_back_from_the_device(driver: CudaDriver) -> None:
    address = driver.allocate(7)
    driver.upload(address, b"1234567")
    assert driver.download(address, 7) == b"1234567"
    assert driver.download(address, 0) == b""


def test_closing_twice_is_fine(cuda_library: Path) -> None:
    driver = CudaDriver(library=str(cuda_library))
    driver.allocate(8)
    driver.close()
    driver.close()
    assert ctypes.CDLL(str(cuda_library)).stub_allocated() == 0


def test_without_a_driver_it_is_said() -> None:
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        CudaDriver(library="libno-such-cuda.so.1")


def test_a_library_that_is_no_driver_is_refused() -> None:
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        CudaDriver(library="libc.so.6")


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("cuInit:100", DeviceError, "there is no GPU \\(CUDA_ERROR_NO_DEVICE\\)"),
        ("cuDeviceGet:101", DeviceError, "there is no GPU"),
        ("cuMemAlloc_v2:2", DeepSeekEdgeError, "no memory left"),
        ("cuStreamSynchronize:719", DeviceError, "CUDA_ERROR_LAUNCH_FAILED"),
        ("cuStreamSynchronize:46", DeviceError, "error 46"),
    ],
)
def test_failures_of_the_gpu_are_typed(
    cuda_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    kind: type[DeepSeekEdgeError],
    message: str,
) -> None:
    monkeypatch.setenv("CUDA_STUB_FAIL", failure)
    with pytest.raises(kind, match=message) as raised:
        driver = CudaDriver(library=str(cuda_library))
        try:
            driver.upload(driver.allocate(4), b"abcd")
        finally:
            driver.close()
    assert type(raised.value) is kind
    assert raised.value.hint


def test_an_engine_runs_on_bytes(driver: CudaDriver) -> None:
    runner = EngineRunner(FakeRuntime(), driver, b"engine")
    assert runner.inputs == (TensorSpec("x", "float32", (1, 3)),)
    assert runner.outputs == (TensorSpec("y", "float32", (1, 3)),)
    assert runner.run({"x": X}) == {"y": TWICE}
    assert len(runner.time(5)) == 5
    assert min(runner.time(5)) > 0
    runner.close()
    runner.close()
    with pytest.raises(InputError, match="closed"):
        runner.run({"x": X})


def test_an_engine_says_its_layers(driver: CudaDriver) -> None:
    runtime = FakeRuntime(layers='{"Layers": []}')
    runner = EngineRunner(runtime, driver, b"engine")
    assert runner.layer_information() == '{"Layers": []}'
    runner.close()
    silent = EngineRunner(FakeRuntime(), driver, b"engine")
    with pytest.raises(UnsupportedError):
        silent.layer_information()
    silent.close()


def test_a_foreign_engine_is_a_fault_of_the_engine(driver: CudaDriver) -> None:
    with pytest.raises(ModelError, match="doesn't take this engine: Serialization") as refusal:
        EngineRunner(FakeRuntime(), driver, b"other")
    assert "--rebuild" in str(refusal.value.hint)


def test_an_engine_that_finds_no_memory_is_told_so(driver: CudaDriver) -> None:
    with pytest.raises(DeepSeekEdgeError, match="can't be started"):
        EngineRunner(FakeRuntime(starts=False), driver, b"engine")


@pytest.mark.parametrize("runtime", [FakeRuntime(dtype="DataType.FP8"), FakeRuntime(shape=(-1, 3))])
def test_types_and_shapes_that_are_not_known_are_refused(
    driver: CudaDriver, runtime: FakeRuntime
) -> None:
    with pytest.raises(UnsupportedError, match="the engine's tensor 'x'"):
        EngineRunner(runtime, driver, b"engine")


@pytest.mark.parametrize("inputs", [{}, {"z": X}, {"x": X, "z": X}, {"x": X[:-1]}])
def test_wrong_inputs_are_refused_with_what_is_right(
    driver: CudaDriver, inputs: dict[str, bytes]
) -> None:
    runner = EngineRunner(FakeRuntime(), driver, b"engine")
    with pytest.raises(InputError) as refusal:
        runner.run(inputs)
    assert refusal.value.hint
    runner.close()


def test_a_run_that_tensorrt_refuses_has_its_reason(driver: CudaDriver) -> None:
    runner = EngineRunner(FakeRuntime(runs=False), driver, b"engine")
    with pytest.raises(DeepSeekEdgeError, match="did not run: enqueue failed"):
        runner.run({"x": X})
    runner.close()


def test_a_gpu_that_is_lost_while_running_is_a_device_error(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = EngineRunner(FakeRuntime(), driver, b"engine")
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuStreamSynchronize:719")
    with pytest.raises(DeviceError, match="CUDA_ERROR_LAUNCH_FAILED") as lost:
        runner.run({"x": X})
    assert "CPU program" in str(lost.value.hint)
    with pytest.raises(DeviceError):
        runner.time(1)
    runner.close()
