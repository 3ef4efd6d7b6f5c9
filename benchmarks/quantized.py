"""Q/DQ graphs of the named models: right for speed and parity, not for accuracy.

``python -m benchmarks.quantized MODEL ...`` prints a line ``MODEL PATH`` each. Models that
``benchmarks.quantization`` has data for are calibrated on them, the others on made-up inputs.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.digest import digest_file
from deepseek_edge.files import write_atomic
from deepseek_edge.packages import cache_directory
from deepseek_edge.quantization.config import Scheme

if TYPE_CHECKING:
    from deepseek_edge.quantization import QuantizedModel

_ROOT = Path(__file__).parent.parent


def quantized_graph(graph: Path, scheme: Scheme = "asymmetric") -> Path:
    """The Q/DQ form of a float graph: int8 activations and per-channel weights, to nearest.

    Args:
        graph: float ONNX file with static shapes.
        scheme: of activations; "symmetric" has zero points of 0 only, as TensorRT takes it.

    Returns:
        A file in the cache directory, made again when the graph or the quantization changes.

    Raises:
        DeepSeekEdgeError: as ``deepseek_edge.quantization.Quantizer``.
    """
    key = hashlib.sha256(digest_file(graph).encode())
    for path in sorted((_ROOT / "deepseek_edge" / "quantization").glob("*.py")):
        key.update(path.read_bytes())
    key.update(Path(__file__).read_bytes() + scheme.encode())
    file = cache_directory() / "models" / key.hexdigest()[:16] / f"{graph.stem}-int8.onnx"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        model = quantize(graph, scheme).model
        write_atomic(file, model.SerializeToString(deterministic=True))
    return file


def quantize(graph: Path, scheme: Scheme = "asymmetric") -> QuantizedModel:
    """What :func:`quantized_graph` writes, not yet written."""
    import onnx

    from benchmarks.quantization import TRIALS, synthetic
    from deepseek_edge.quantization import QuantConfig, Quantizer
    from deepseek_edge.quantization.calibrate import FewSamplesWarning

    model = onnx.load(graph)
    samples = TRIALS.get(graph.stem, synthetic)(model).calibration
    # Compensated rounding takes minutes, and changes neither time nor parity with the graph.
    quantizer = Quantizer(model, QuantConfig(quant_scheme=scheme, rounding="nearest"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        return quantizer.calibrate(samples).quantize()


if __name__ == "__main__":
    from benchmarks.models import model_path

    for requested in sys.argv[1:]:
        print(requested, quantized_graph(model_path(requested)))
