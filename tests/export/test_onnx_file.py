import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.errors import DeepSeekEdgeError, ModelError, UnsupportedError, UsageError
from deepseek_edge.export import load_model

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def gemm_model(weight: TensorProto | None = None, *, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight or numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def written(path: Path, data: bytes | onnx.ModelProto) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return str(path)


def external(location: str, *, offset: str = "0", length: str = "48") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def initializer(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    model = load_model(written(tmp_path / "m.onnx", gemm_model()))
    assert [node.name for node in model.graph.node] == ["layer"]
    assert np.array_equal(initializer(model, "w"), WEIGHT)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = gemm_model().SerializeToString()
    for end in range(len(data)):
        path = written(tmp_path / "m.onnx", data[:end])
        with pytest.raises(ModelError, match=r"m\.onnx") as caught:
            load_model(path)
        assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\x7fELF" + bytes(100),
        b'{"format": "json"}',
        b"<html></html>",
        bytes(1000),
    ],
    ids=["empty", "zip", "png", "elf", "json", "html", "zeros"],
)
def test_another_format_is_named_so(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match="is not an ONNX file"):
        load_model(written(tmp_path / "m.onnx", data))


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(gemm_model().SerializeToString())
        file.truncate(2**33)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(ModelError):
        load_model(str(path))
    duration_s = time.monotonic() - start
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size == 2**33
    assert duration_s < 1
    assert peak_bytes < 10_000_000


def test_a_long_file_of_another_kind_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(b"\x0a\x04")
        file.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(ModelError):
        load_model(str(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000_000


@given(st.data())
def test_a_damaged_file_gives_one_of_our_errors_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(gemm_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp() / "m.onnx", bytes(content))
    try:
        load_model(path)
    except DeepSeekEdgeError as error:
        assert str(error)


def test_a_weight_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2**40])
    weight.raw_data = bytes(48)
    with pytest.raises(ModelError, match="weight w"):
        load_model(written(tmp_path / "m.onnx", gemm_model(weight)))


def test_an_invalid_graph_is_refused_with_the_checkers_reason(tmp_path: Path) -> None:
    model = gemm_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        load_model(written(tmp_path / "m.onnx", model))


def test_an_opset_of_the_future_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="opset 999"):
        load_model(written(tmp_path / "m.onnx", gemm_model(opset=999)))


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = gemm_model()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    loaded = load_model(written(tmp_path / "m.onnx", model))
    assert [value.name for value in loaded.graph.input] == ["x"]
    onnx.checker.check_model(loaded)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = gemm_model()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, model.opset_import)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("Twice", ["z"], ["y"], domain="own"))
    loaded = load_model(written(tmp_path / "m.onnx", model))
    assert [node.op_type for node in loaded.graph.node] == ["MatMul", "Relu"]


class TestExternalData:
    def test_beside_the_model_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(struct.pack("<d", 0) + WEIGHT.tobytes())
        path = written(tmp_path / "m.onnx", gemm_model(external("w.bin", offset="8")))
        assert np.array_equal(initializer(load_model(path), "w"), WEIGHT)

    @pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "{absolute}", "link.bin"])
    def test_outside_the_folder_is_refused(self, tmp_path: Path, location: str) -> None:
        folder = tmp_path / "model"
        (folder / "sub").mkdir(parents=True)
        secret = tmp_path / "w.bin"
        secret.write_bytes(WEIGHT.tobytes())
        (folder / "link.bin").symlink_to(secret)
        location = location.replace("{absolute}", str(secret))
        path = written(folder / "m.onnx", gemm_model(external(location)))
        with pytest.raises(UnsupportedError, match="outside the model's folder"):
            load_model(path)

    def test_missing_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "m.onnx", gemm_model(external("w.bin")))
        with pytest.raises(ModelError, match=r"w\.bin is not beside it"):
            load_model(path)

    @pytest.mark.parametrize(
        ("offset", "length"), [("4", "48"), ("0", "9999999999"), ("-4", "48"), ("x", "48")]
    )
    def test_beyond_its_file_is_refused(self, tmp_path: Path, offset: str, length: str) -> None:
        (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
        tensor = external("w.bin", offset=offset, length=length)
        path = written(tmp_path / "m.onnx", gemm_model(tensor))
        with pytest.raises(ModelError, match="too short"):
            load_model(path)


@pytest.mark.parametrize("reference", ["absent.onnx", "absent", "absent.pt2"])
def test_a_model_that_does_not_exist_is_a_usage_error(reference: str) -> None:
    with pytest.raises(UsageError, match=f"there is no model {reference}"):
        load_model(reference)


def test_a_file_of_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no kind that can be read"):
        load_model(written(tmp_path / "m.tflite", b"x"))
