from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.compression.__main__ import choose, few
from benchmarks.compression.experiments import BASELINES, EXPERIMENTS, Experiment, quick
from benchmarks.compression.measuring import LARGE, Bench, count_parameters, resized
from benchmarks.compression.table import table
from deepseek_edge.datasets import Dataset
from deepseek_edge.errors import UsageError

CLASSES = 3


def brightness_classifier(weights: list[float]) -> onnx.ModelProto:
    """Logits are a weight times the mean of an 8x8 image, for three classes."""
    kernel = np.array(weights, np.float32).reshape(CLASSES, 1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["maps"], "conv"),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array([0.0, 0.1, -0.1], np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images(values: list[float], labels: list[int]) -> Dataset:
    pixels = np.repeat(np.array(values, np.float32), 64).reshape(-1, 1, 8, 8)
    return Dataset(
        id="brightness",
        split="evaluation",
        sha256="",
        licence="",
        source="",
        preprocess=None,
        labels={"kind": "npz", "array": "labels"},
        metric="top1",
        content={"image": pixels},
        targets=np.array(labels, np.int64),
    )


def test_a_graph_takes_larger_images_and_keeps_its_weights() -> None:
    graph = brightness_classifier([1.0, 2.0, 3.0])
    large = resized(graph, 32)
    shape = large.graph.input[0].type.tensor_type.shape
    assert [one.dim_value for one in shape.dim] == [1, 1, 32, 32]
    assert large.graph.initializer == graph.graph.initializer
    assert [one.dim_value for one in graph.graph.input[0].type.tensor_type.shape.dim][2] == 8


def test_parameters_are_weights_and_biases_but_no_scales() -> None:
    graph = brightness_classifier([1.0, 2.0, 3.0])
    assert count_parameters(graph) == 6
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    graph.graph.initializer.extend([scale, zero])
    graph.graph.node.insert(
        0, helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"])
    )
    assert count_parameters(graph) == 6


def test_an_experiment_is_chosen_by_name_and_all_are_chosen_by_all() -> None:
    assert choose("all") == EXPERIMENTS
    assert [one.name for one in choose("resnet-18-qat")] == ["resnet-18-qat"]
    with pytest.raises(UsageError, match="no experiment resnet-19"):
        choose("resnet-19")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_quick_experiment_does_the_same_to_a_smaller_network(experiment: Experiment) -> None:
    pytest.importorskip("torch")
    from examples.fashion import build

    small = quick(experiment)
    kept = (small.name, small.change, small.ratio, small.training is None)
    assert kept == (
        experiment.name,
        experiment.change,
        experiment.ratio,
        experiment.training is None,
    )
    sizes = [sum(p.numel() for p in build(one.network).parameters()) for one in (small, experiment)]
    assert sizes[0] < 0.5 * sizes[1]
    # A CPU is fast in float32 alone.
    configs = [BASELINES[small.network], *([] if small.training is None else [small.training])]
    assert all(one.epochs <= 4 and one.precision == "float32" for one in configs)


@pytest.mark.tvm
def test_a_row_tells_what_the_second_artifact_gets_wrong(tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(brightness_classifier([0.0, 1.0, -1.0]), before)  # class 1 if bright, else 2
    onnx.save(brightness_classifier([2.0, 1.0, -1.0]), after)  # class 0 if bright
    data = images([1.0, 2.0, 3.0, -1.0], [1, 1, 0, 2])
    row = Bench(tmp_path, data).compare(before, after)
    assert (row["top1_before"], row["top1_after"], row["samples"]) == (75.0, 50.0, 4)
    assert row["drop_pp"] == 25.0
    assert row["ci_pp"] > 10  # four images tell little
    assert row["params_before"] == row["params_after"] == 6
    assert row["ms_before"] > 0
    assert row[f"ms{LARGE}_after"] > row["ms_after"]


def test_few_images_are_the_first_ones() -> None:
    content = np.arange(10, dtype=np.uint8).reshape(5, 1, 2)
    whole = images([0.0] * 5, [0, 1, 2, 0, 1])
    whole = Dataset(**{**vars(whole), "content": content})
    part = few(whole, 2)
    assert len(part) == 2
    assert np.array_equal(part.content, content[:2])  # type: ignore[arg-type]
    assert part.targets is not None
    assert part.targets.tolist() == [0, 1]


def test_the_table_tells_how_much_faster_and_what_is_lost() -> None:
    row = {
        "name": "resnet-18-pruned",
        "seed": 0,
        "params_before": 10_000_000,
        "params_after": 7_000_000,
        "weights_bytes_after": 33_000_000,  # packed
        "int8_macs_share": None,
        "top1_before": 95.0,
        "top1_after": 94.75,
        "drop_pp": 0.25,
        "ci_pp": 0.1,
        "ms_before": 10.0,
        "ms_after": 8.0,
        "ms224_before": 300.0,
        "ms224_after": 200.0,
    }
    *_, line = table([row])
    assert "| 10.00 -> 7.00 | 40.0 -> 28.0 | 95.00 % | 94.75 % | +0.25 +- 0.10 |" in line
    assert "| 1.25x | 300.0 -> 200.0 | 1.50x |" in line
    quantized = row | {"weights_bytes_after": 7_000_000, "int8_macs_share": 1.0}
    assert "| 40.0 -> 7.0 |" in [*table([quantized])][-1]
