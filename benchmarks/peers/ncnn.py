"""ncnn, which chooses Winograd, SGEMM and packed layouts by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PeerError, Source, pnnx
from benchmarks.peers.clock import milliseconds

if TYPE_CHECKING:
    from benchmarks.peers import Array


class Runner:
    """A network, and a new extractor for each call, as ncnn is used."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """Let pnnx translate the graph.

        Raises:
            PeerError: pnnx can't, or the graph is a Q/DQ one.
        """
        if source.is_quantized:
            raise PeerError("no Q/DQ import; its packages hold no ncnn2int8 and no ncnn2table")
        pnnx.convert(source.graph, folder)
        return folder / "model.ncnn.param"

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        import ncnn
        import onnx

        self._ncnn = ncnn
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        # Activations of 16 bits cost 50 dB and, where cores compute in float32, save no time.
        self._net.opt.use_fp16_packed = False
        self._net.opt.use_fp16_storage = False
        self._net.opt.use_fp16_arithmetic = False
        if self._net.load_param(str(file)) or self._net.load_model(str(file.with_suffix(".bin"))):
            raise PeerError(
                f"ncnn has no layer {', '.join(_untranslated(file)) or 'of this graph'}"
            )
        model = onnx.load(source.graph, load_external_data=False)
        constants = {tensor.name for tensor in model.graph.initializer}
        self._names = [value.name for value in model.graph.input if value.name not in constants]
        self._outputs = [f"out{index}" for index in range(len(model.graph.output))]
        self._mats: list[Any] = []

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Keep the inputs as ncnn's matrices, without the batch axis, and run."""
        import numpy as np

        self._mats = []
        for name in self._names:
            value = inputs[name]
            narrow = value.astype(np.int32) if value.dtype == np.int64 else value
            self._mats.append(self._ncnn.Mat(narrow[0]).clone())
        return [np.array(mat) for mat in self._call()]

    def time(self, calls: int) -> list[float]:
        """Run on the matrices that are kept."""
        return milliseconds(self._call, calls)

    def _call(self) -> list[Any]:
        with self._net.create_extractor() as extractor:
            for index, mat in enumerate(self._mats):
                extractor.input(f"in{index}", mat)
            mats = []
            for name in self._outputs:
                status, mat = extractor.extract(name)
                if status:
                    raise PeerError(f"ncnn can't compute {name}: status {status}")
                mats.append(mat)
            return mats


def _untranslated(file: Path) -> list[str]:
    """Kinds of layers that pnnx left as it found them, e.g. ``Tensor.to``."""
    kinds = [line.split(" ")[0] for line in file.read_text().splitlines()[2:]]
    return sorted({kind for kind in kinds if "." in kind})
