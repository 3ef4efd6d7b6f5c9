"""Whole models as torch modules, beside onnxruntime on the graph that was exported."""

import copy
from typing import Any

import numpy as np
import pytest

from deepseek_edge.export import fix_shapes
from deepseek_edge.quantization import Quantizer
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.prepare import prepare
from tests.quantization.graphs import residual, samples

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SAMPLES = 2


def small_model(name: str) -> tuple[Any, int]:
    """A model of the examples, and the size of its images here."""
    from examples import efficientnet_lite, models

    if name == "detector":
        return models.Detector(classes=3, width=16), 96
    if name == "efficientnet_lite0":
        return efficientnet_lite.EfficientNetLite0(), 64
    rows = models.SMALL if name == "mobilenet_v3_small" else models.LARGE
    return models.MobileNetV3(rows, 64, classes=7), 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mobilenet_v3_large", "detector", "efficientnet_lite0"]
)
def test_a_float_model_computes_what_onnxruntime_does(name: str) -> None:
    from deepseek_edge.export.torch_module import export_module
    from deepseek_edge.quantization.qat import GraphModule
    from examples.models import settle

    model, size = small_model(name)
    settle(model, torch.randn(1, 3, 4 * size, 4 * size))
    graph = fix_shapes(export_module(model, (torch.randn(1, 3, size, size),)), {})
    images = torch.randn(SAMPLES, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = GraphModule(prepare(graph)).eval()(images)
    run = session(graph, optimize=False)
    name = graph.graph.input[0].name
    for number in range(SAMPLES):
        wanted = run.run(None, {name: images[number : number + 1].numpy()})
        outputs = found if isinstance(found, tuple) else (found,)
        for one, given in zip(wanted, outputs, strict=True):
            difference = np.abs(given[number : number + 1].numpy() - one).max()
            assert difference < 1e-5 * np.abs(one).max()


def test_weights_and_biases_of_layers_are_trained_and_nothing_else() -> None:
    from deepseek_edge.quantization.qat import GraphModule, to_module

    quantized = Quantizer(residual()).calibrate(samples(8)).quantize()
    plain = GraphModule(quantized.parts.model)
    layers = [f"{layer}_{kind}" for layer in ("a", "b", "c", "fc") for kind in "wb"]
    trained = {n for n, t in plain.constants().items() if isinstance(t, torch.nn.Parameter)}
    assert trained == set(layers)
    module = to_module(quantized)
    steps = len(module.weight_quantizers) + len(set(module.activation_quantizers.values()))
    assert len(list(module.parameters())) == len(layers) + steps
    torch.autograd.backward(module(torch.randn(4, 3, 12, 12)).square().sum())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


def test_autocast_leaves_fake_quant_in_float32() -> None:
    from deepseek_edge.quantization.qat import to_module

    module = to_module(Quantizer(residual()).calibrate(samples(8)).quantize())
    x = torch.randn(4, 3, 12, 12)
    plain = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), plain)


def test_a_copy_is_independent() -> None:
    from deepseek_edge.quantization.qat import to_module

    module = to_module(Quantizer(residual()).calibrate(samples(8)).quantize()).eval()
    x = torch.randn(2, 3, 12, 12)
    before = module(x).detach()
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3)
    assert torch.equal(module(x), before)
    assert not torch.equal(other(x), before)
