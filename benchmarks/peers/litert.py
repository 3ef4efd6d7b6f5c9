"""LiteRT (TensorFlow Lite) with XNNPACK, its default; int8 by AI Edge Quantizer's own recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers import Source, pnnx
from benchmarks.peers.clock import milliseconds

if TYPE_CHECKING:
    from benchmarks.peers import Array

CALIBRATION_SAMPLES = 4


class Runner:
    """An interpreter."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """ONNX, torch module, .tflite; then int8 if the source is.

        Raises:
            PeerError: pnnx can't translate the graph.
        """
        import litert_torch

        module, example = pnnx.torch_module(source.float_graph, folder)
        file = folder / "float.tflite"
        litert_torch.convert(module, example).export(str(file))
        return _quantize(file, source) if source.is_quantized else file

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(file), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = _in_order(self._interpreter.get_input_details())
        self._outputs = _in_order(self._interpreter.get_output_details())

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Set the inputs, in the graph's order, and run; what is int8 is converted outside."""
        import numpy as np

        for detail, given in zip(self._inputs, inputs.values(), strict=True):
            value = given
            if detail["dtype"] == np.int8:
                scale, zero_point = detail["quantization"]
                steps = np.rint(given / np.float32(scale)) + zero_point
                value = np.clip(steps, -128, 127)
            # The converter also narrows int64 indices to int32.
            self._interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
        self._interpreter.invoke()
        return [self._output(detail) for detail in self._outputs]

    def time(self, calls: int) -> list[float]:
        """Run on the interpreter's tensors."""
        return milliseconds(self._interpreter.invoke, calls)

    def _output(self, detail: Mapping[str, Any]) -> Array:
        import numpy as np

        value: Array = self._interpreter.get_tensor(detail["index"])
        if detail["dtype"] != np.int8:
            return value
        scale, zero_point = detail["quantization"]
        real: Array = (value.astype(np.float32) - zero_point) * np.float32(scale)
        return real


def _in_order(details: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    # serving_default_args_0, serving_default_args_1, ...: sorted by number, whatever surrounds it.
    return sorted(details, key=lambda detail: int("".join(filter(str.isdigit, detail["name"]))))


def _quantize(file: Path, source: Source) -> Path:
    import onnx
    from ai_edge_quantizer import quantizer, recipe

    from deepseek_edge.parity import graph_inputs, sample_inputs

    model = onnx.load(source.float_graph)
    specs = graph_inputs(model)
    samples = [sample_inputs(model, specs, 1 + i) for i in range(CALIBRATION_SAMPLES)]
    data = [{f"args_{i}": sample[s.name] for i, s in enumerate(specs)} for sample in samples]
    work = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
    result = work.quantize(work.calibrate({"serving_default": data}))
    quantized = file.with_name("int8.tflite")
    result.export_model(str(quantized))
    return quantized
