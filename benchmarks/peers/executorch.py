"""ExecuTorch with its XNNPACK backend; int8 by that backend's own quantizer."""

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
    """The method ``forward`` of a .pte file."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """ONNX, torch module, .pte; quantized on the way if the source is.

        Raises:
            PeerError: pnnx can't translate the graph.
        """
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module, example = pnnx.torch_module(source.float_graph, folder)
        if source.is_quantized:
            module = _quantize(module, example, source)
        program = to_edge_transform_and_lower(
            torch.export.export(module, example), partitioner=[XnnpackPartitioner()]
        ).to_executorch()
        file = folder / "xnnpack.pte"
        file.write_bytes(program.buffer)
        return file

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)
        # A method's program must outlive it.
        self._program = Runtime.get().load_program(file)
        self._method: Any = self._program.load_method("forward")
        self._inputs: tuple[Any, ...] = ()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Keep the inputs as tensors and run."""
        import torch

        self._inputs = tuple(torch.from_numpy(value) for value in inputs.values())
        return [tensor.numpy().copy() for tensor in self._method.execute(self._inputs)]

    def time(self, calls: int) -> list[float]:
        """Run on the tensors that are kept; ExecuTorch makes new outputs at each call."""
        return milliseconds(lambda: self._method.execute(self._inputs), calls)


def _quantize(module: Any, example: tuple[Any, ...], source: Source) -> Any:
    import onnx
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from deepseek_edge.parity import graph_inputs, sample_inputs

    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True)
    )
    prepared = prepare_pt2e(torch.export.export(module, example).module(), quantizer)
    model = onnx.load(source.float_graph)
    specs = graph_inputs(model)
    for number in range(CALIBRATION_SAMPLES):
        sample = sample_inputs(model, specs, 1 + number)
        prepared(*(torch.from_numpy(sample[spec.name]) for spec in specs))
    return convert_pt2e(prepared)
