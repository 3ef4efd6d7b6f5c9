from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.errors import DeviceError, InputError, MissingToolError, ModelError
from deepseek_edge.runtime import tensorrt_engine
from deepseek_edge.runtime.board_build import board
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.runtime.tensorrt_engine import TensorRTEngine
from deepseek_edge.tensors import TensorSpec
from tests.runtime.cuda_stub import FakeRuntime

HERE = {"gpu": "Orin", "sm": "8.7", "tensorrt": "TensorRT 10.3.0"}
X = np.array([[1.0, -2.0, 0.5]], np.float32)


def write_engine(folder: Path, **key: str) -> Path:
    store = EngineStore(folder)
    made = {**HERE, "system": "L4T 36.4.3", "graphs": "g", "recipe": "r", **key}
    store.commit({"key": made, "precision": "int8", "engine": store.write_engine(b"engine")})
    return folder


def open_engine(folder: Path, driver: CudaDriver, **runtime: Any) -> TensorRTEngine:
    return TensorRTEngine(folder, trt=FakeRuntime(**runtime), driver=driver, root=folder)


def test_an_engine_runs_on_arrays(tmp_path: Path, driver: CudaDriver) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine:
        assert engine.inputs() == (TensorSpec("x", "float32", (1, 3)),)
        assert engine.outputs() == (TensorSpec("y", "float32", (1, 3)),)
        assert (engine.entries, engine.precision, engine.steps()) == (("batch1",), "int8", ())
        output = engine.run({"x": X})["y"]
        assert output.tolist() == (2 * X).tolist()
        assert output.dtype == np.float32
        assert output.flags.writeable


def test_arrays_in_another_order_in_memory_are_right_too(
    tmp_path: Path, driver: CudaDriver
) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine:
        backwards = X[:, ::-1].copy()[:, ::-1]
        assert not backwards.flags.c_contiguous
        assert engine.run({"x": backwards})["y"].tolist() == (2 * X).tolist()


def test_its_layers_are_not_timed(tmp_path: Path, driver: CudaDriver) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine:
        outputs, durations = engine.run_timed({"x": X})
        assert outputs["y"].tolist() == (2 * X).tolist()
        assert durations.shape == (len(engine.steps()),) == (0,)


def test_times_are_one_a_run(tmp_path: Path, driver: CudaDriver) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine:
        times = engine.time(7)
        assert times.shape == (7,)
        assert times.dtype == np.int64
        assert times.min() > 0


@pytest.mark.parametrize(
    "inputs", [{}, {"z": X}, {"x": X.astype(np.float64)}, {"x": X[0]}, {"x": X, "z": X}]
)
def test_wrong_inputs_are_refused(
    tmp_path: Path, driver: CudaDriver, inputs: dict[str, Any]
) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine, pytest.raises(InputError):
        engine.run(inputs)


def test_there_is_one_entry(tmp_path: Path, driver: CudaDriver) -> None:
    with open_engine(write_engine(tmp_path), driver, shape=(1, 3)) as engine:
        for call in (engine.inputs, engine.outputs, engine.steps):
            with pytest.raises(InputError, match="entry 1"):
                call(1)


def test_a_closed_engine_is_said_to_be_closed(tmp_path: Path, driver: CudaDriver) -> None:
    engine = open_engine(write_engine(tmp_path), driver)
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.run({"x": X})


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu", "Xavier"), ("sm", "7.2"), ("tensorrt", "TensorRT 8.5.2")],
)
def test_an_engine_of_another_gpu_or_version_is_refused_unopened(
    tmp_path: Path, driver: CudaDriver, field: str, value: str
) -> None:
    runtime = FakeRuntime()
    runtime.Runtime = None  # type: ignore[assignment,method-assign]
    write_engine(tmp_path, **{field: value})
    with pytest.raises(ModelError, match=f"for {field} {value}; this is Orin, 8") as refusal:
        TensorRTEngine(tmp_path, trt=runtime, driver=driver, root=tmp_path)
    assert refusal.value.hint == "run dse_build.py on this board"


def test_an_older_system_version_is_no_obstacle(tmp_path: Path, driver: CudaDriver) -> None:
    write_engine(tmp_path, system="L4T 36.3.0")
    open_engine(tmp_path, driver).close()


def test_a_damaged_engine_is_refused_unopened(tmp_path: Path, driver: CudaDriver) -> None:
    write_engine(tmp_path)
    (path,) = tmp_path.glob("*.engine")
    path.write_bytes(b"enginf")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        open_engine(tmp_path, driver, engine=b"enginf")


def test_a_record_without_a_key_is_refused(tmp_path: Path, driver: CudaDriver) -> None:
    write_engine(tmp_path)
    (tmp_path / "engine.json").write_text("{}")
    with pytest.raises(ModelError, match="record is damaged"):
        open_engine(tmp_path, driver)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_an_engine_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="has no engine"):
        TensorRTEngine(tmp_path / name, trt=FakeRuntime())
    assert not (tmp_path / "missing").exists()


def test_without_a_gpu_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_engine(tmp_path)
    missing = "libno-such-cuda.so.1"
    monkeypatch.setattr(tensorrt_engine, "CudaDriver", lambda: CudaDriver(library=missing))
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        TensorRTEngine(tmp_path, trt=FakeRuntime())


def test_without_tensorrt_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_engine(tmp_path)
    monkeypatch.setattr(board, "TENSORRT_MODULES", ("no_such_tensorrt",))
    with pytest.raises(MissingToolError, match="not installed"):
        TensorRTEngine(tmp_path)


def test_a_gpu_that_is_lost_is_a_device_error(
    tmp_path: Path, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(write_engine(tmp_path), driver) as engine:
        monkeypatch.setenv("CUDA_STUB_FAIL", "cuStreamSynchronize:719")
        with pytest.raises(DeviceError, match="LAUNCH_FAILED"):
            engine.run({"x": X})
        monkeypatch.delenv("CUDA_STUB_FAIL")


def test_a_driver_of_its_own_is_closed_with_the_engine(
    tmp_path: Path, cuda_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[CudaDriver] = []

    def make() -> CudaDriver:
        made.append(CudaDriver(library=str(cuda_library)))
        return made[-1]

    monkeypatch.setattr(tensorrt_engine, "CudaDriver", make)
    TensorRTEngine(write_engine(tmp_path), trt=FakeRuntime(), root=tmp_path).close()
    assert len(made) == 1
    with pytest.raises(DeviceError):
        made[0].use()
