"""Training what post-training quantization made."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.quantization import QuantConfig, QuantizedModel, Quantizer
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.prepare import prepare
from tests.quantization.graphs import conv, conv_constants, model, node, residual, samples

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

PLAIN = QuantConfig(quant_scheme="symmetric", rounding="nearest", equalization=False)


def quantized(graph: onnx.ModelProto, config: QuantConfig = PLAIN) -> QuantizedModel:
    return Quantizer(graph, config).calibrate(samples(16)).quantize()


def stretched() -> QuantizedModel:
    """Quantized by plain minima and maxima, of which one sample's are ten times the others'."""
    data = samples(16)
    data[3] = {"x": data[3]["x"] * 10}
    return Quantizer(residual(), PLAIN).calibrate(data).quantize()


def labelled(count: int) -> Any:
    from deepseek_edge.training import TrainingData

    inputs = np.concatenate([one["x"] for one in samples(count, seed=5)])
    return TrainingData(torch.from_numpy(inputs), torch.zeros(count, dtype=torch.int64))


def config(**changes: Any) -> Any:
    from deepseek_edge.training import TrainConfig

    plain = TrainConfig(
        epochs=3,
        batch_size=32,
        learning_rate=2e-3,
        optimizer="adamw",
        weight_decay=0.0,
        device="cpu",
    )
    return dataclasses.replace(plain, **changes)


def distance(graph: onnx.ModelProto, other: onnx.ModelProto) -> float:
    """Mean square of the outputs' difference on samples that no one was trained on."""
    one, two = (session(g, optimize=False) for g in (graph, other))
    errors = [one.run(None, s)[0] - two.run(None, s)[0] for s in samples(64, seed=9)]
    return float(np.mean(np.square(errors)))


def to_float_logits(teacher: onnx.ModelProto) -> Callable[..., Any]:
    from deepseek_edge.quantization.qat import GraphModule

    module = GraphModule(teacher).eval()

    def loss(model: Any, inputs: Any, labels: Any) -> Any:
        with torch.no_grad():
            wanted = module(inputs)
        return (model(inputs) - wanted).square().mean()

    return loss


def test_training_brings_back_most_of_what_min_max_lost() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    graph, before = residual(), stretched()
    loss = to_float_logits(before.parts.model)
    after = fine_tune(before, labelled(256), config(epochs=40, learning_rate=5e-3), loss=loss)
    assert distance(graph, after.model) < 0.5 * distance(graph, before.model)


def test_by_default_the_float_graph_is_the_teacher() -> None:
    from deepseek_edge.quantization.qat import GraphModule, fine_tune
    from deepseek_edge.training import distill

    before, data = stretched(), labelled(64)
    plain = fine_tune(before, data, config(epochs=1))
    teacher = GraphModule(before.parts.model)
    assert fine_tune(before, data, config(epochs=1), teacher=teacher).model == plain.model
    loss = distill(teacher)
    assert fine_tune(before, data, config(epochs=1), loss=loss).model == plain.model
    other = GraphModule(prepare(twice(residual())))
    assert fine_tune(before, data, config(epochs=1), teacher=other).model != plain.model


def twice(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same with logits of twice the size."""
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("fc_"):
            doubled = numpy_helper.to_array(tensor) * 2
            tensor.CopyFrom(numpy_helper.from_array(doubled, tensor.name))
    return graph


def test_the_trained_graph_has_the_same_nodes_and_obeys_the_contract() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before = quantized(residual(), QuantConfig())
    after = fine_tune(before, labelled(64), config(epochs=1))
    onnx.checker.check_model(after.model, full_check=True)
    assert list(after.model.graph.node) == list(before.model.graph.node)
    old, new = (constants(q.model) for q in (before, after))
    assert old.keys() == new.keys()
    for name, value in new.items():
        assert value.dtype == old[name].dtype and value.shape == old[name].shape
        if name.endswith("/zero_point"):
            assert np.array_equal(value, old[name])
        if name.endswith("/scale"):
            assert (value > 0).all() and not np.array_equal(value, old[name])
        if value.dtype == np.int8:
            assert value.min() >= -128 if name.endswith("zero_point") else value.min() >= -127
    assert after.table == before.table and after.layers == before.layers


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


@pytest.mark.parametrize("chosen", [PLAIN, QuantConfig()])
def test_untrained_it_is_what_post_training_quantization_made(chosen: QuantConfig) -> None:
    from deepseek_edge.quantization.qat import from_module, to_module

    before = quantized(residual(), chosen)
    again = from_module(before, to_module(before))
    old, new = (constants(q.model) for q in (before, again))
    for name, value in old.items():
        if value.dtype == np.int8:
            assert np.array_equal(new[name], value), name
        else:
            assert np.allclose(new[name], value, rtol=1e-6), name


def test_layers_that_were_kept_float_stay_float() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before = quantized(residual()).keep_float({"b_node": "to see"})
    after = fine_tune(before, labelled(64), config(epochs=1))
    assert after.layers == before.layers and "b_node" not in after.layers
    assert list(after.model.graph.node) == list(before.model.graph.node)
    assert "c_node" not in after.keep_float({"c_node": "to see"}).layers


def test_tensors_that_share_a_scale_still_do() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    nodes = [
        conv("x", "a"),
        conv("x", "b"),
        node("Concat", ["a", "b"], "both", axis=1),
        conv("both", "c"),
        node("GlobalAveragePool", ["c"], "pooled"),
        node("Flatten", ["pooled"], "y"),
    ]
    made = {
        **conv_constants("a", (4, 3, 1, 1)),
        **conv_constants("b", (4, 3, 1, 1)),
        **conv_constants("c", (5, 8, 1, 1)),
    }
    before = quantized(model(nodes, {"x": (1, 3, 12, 12)}, ("y",), made))
    after = fine_tune(before, labelled(64), config(epochs=1))
    scales = {after.parts.activations[name].scale for name in ("a", "b", "both")}
    assert len(scales) == 1
    assert scales != {before.parts.activations["a"].scale}


def test_a_channel_whose_bias_dwarfs_its_weights_gets_a_coarse_step() -> None:
    from deepseek_edge.quantization.qat import from_module, to_module

    before = quantized(residual())
    module = to_module(before)
    with torch.no_grad():
        module.constants()["a_b"][0] = 1e6
    after = from_module(before, module)
    scales = after.parts.rounded.weights["a_node"].scales
    unit = after.parts.activations["x"].scale * scales
    assert 1e6 / unit[0] <= 2**29 * 1.001
    assert np.array_equal(scales[1:], module.weight_quantizers["a_node"].scales.numpy()[1:])


def test_observing_sets_steps_from_ranges_and_then_lets_them_learn() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before = quantized(residual())
    data = labelled(64)
    wide = dataclasses.replace(data, inputs=data.inputs * 10)
    loss = to_float_logits(before.parts.model)
    tiny = config(epochs=2, learning_rate=1e-9)
    still = fine_tune(before, wide, tiny, loss=loss)
    moved = fine_tune(before, wide, tiny, loss=loss, observe_epochs=2)
    old, kept, new = (q.parts.activations["x"].scale for q in (before, still, moved))
    assert kept == pytest.approx(old, rel=1e-5)
    assert new > 1.1 * old


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before, data = quantized(residual()), labelled(64)
    told: list[int] = []
    run = partial(fine_tune, before, data, config(epochs=2), observe_epochs=0.5)
    whole = run()

    def stop(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "qat", progress=stop)
    resumed = run(checkpoint=tmp_path / "qat", progress=lambda _, done, __: told.append(done))
    assert told == [3, 4]
    assert resumed.model == whole.model


# What torch says of itself while it traces a function with a gradient of its own.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_is_compiled_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepseek_edge.quantization.qat import GraphModule, fine_tune

    before, data = quantized(residual()), labelled(64)
    plain = fine_tune(before, data, config(epochs=1))
    how: list[str] = []

    def compile_eagerly(module: Any) -> None:
        how.append("compiled")
        torch.nn.Module.compile(module, backend="eager", fullgraph=True)

    monkeypatch.setattr(GraphModule, "compile", compile_eagerly)
    assert fine_tune(before, data, config(epochs=1), compiled=True).model == plain.model
    assert how == ["compiled"]


def test_a_module_is_quantized_by_what_exports_it() -> None:
    from deepseek_edge.export import fix_shapes
    from deepseek_edge.export.torch_module import export_module

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    with pytest.raises(UsageError, match="shapes of its inputs"):
        Quantizer(module, PLAIN)
    example = torch.zeros(1, 3, 12, 12)
    graph = fix_shapes(export_module(module, (example,)), {})
    data = [{graph.graph.input[0].name: one["x"]} for one in samples(8)]
    found = Quantizer(module, PLAIN, export=lambda m: graph).calibrate(data).quantize()
    assert found.model == Quantizer(graph, PLAIN).calibrate(data).quantize().model


def test_a_loss_beside_a_teacher_is_refused() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before = quantized(residual())
    with pytest.raises(UsageError, match="teacher"):
        fine_tune(
            before,
            labelled(64),
            config(),
            teacher=torch.nn.Identity(),
            loss=to_float_logits(before.parts.model),
        )
    with pytest.raises(UsageError, match="observe_epochs"):
        fine_tune(before, labelled(64), config(), observe_epochs=-1)


def test_a_model_without_quantized_layers_is_refused() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    before = quantized(residual())
    nothing = before.keep_float(dict.fromkeys(before.layers, "to see"))
    with pytest.raises(UsageError, match="no layer"):
        fine_tune(nothing, labelled(64), config())


def test_an_operator_that_cannot_be_trained_is_named() -> None:
    from deepseek_edge.quantization.qat import fine_tune

    nodes = [conv("x", "a"), node("Flatten", ["a"], "flat"), node("Hardmax", ["flat"], "y")]
    graph = model(nodes, {"x": (1, 3, 12, 12)}, ("y",), conv_constants("a", (4, 3, 1, 1)))
    with pytest.raises(UnsupportedError, match=r"y_node.*Hardmax"):
        fine_tune(quantized(graph), labelled(64), config())
