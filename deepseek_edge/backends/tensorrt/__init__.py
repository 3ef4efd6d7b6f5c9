"""TensorRT engines from float or Q/DQ graphs.

    check and rewrite the graph -> network -> engine -> layer report

A board's engine is built on the board (``deepseek_edge.runtime.board_build``), from the graph
that ``prepare_graph`` made. Here, without a GPU, only TensorRT for RTX can build: it shows that a
graph is one that TensorRT takes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.digest import digest_bytes
from deepseek_edge.engine_build import EngineOptions
from deepseek_edge.engine_build import build_engine as build_from_bytes
from deepseek_edge.errors import MissingToolError, UnsupportedError

if TYPE_CHECKING:
    import onnx

DEFAULT_WORKSPACE_BYTES = 256 << 20
# What tensorrt_rtx 1.7.1 builds for without such a GPU (ComputeCapability). Orin is 8.7, Xavier
# 7.2: their engines are built on the boards.
RTX_COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class EngineFile:
    """An engine and what it holds for.

    Attributes:
        data: the serialized engine.
        precision: that was asked for: "float32", "float16" or "int8".
        sm: compute capability, e.g. "8.6"; None: of the GPU that was there.
        builder: module and version, e.g. "tensorrt_rtx 1.7.1.116".
        graph_sha256: of the graph that TensorRT was given.
        timing_cache: TensorRT's, None if it keeps none.
        warnings: TensorRT's.
        weights_bytes: of the constants, without kernels; None if TensorRT doesn't say.
    """

    data: bytes
    precision: str
    sm: str | None
    builder: str
    graph_sha256: str
    timing_cache: bytes | None
    warnings: tuple[str, ...]
    weights_bytes: int | None = None


def load_tensorrt_rtx() -> Any:
    """The module of TensorRT for RTX, imported now.

    Raises:
        MissingToolError: it is not installed, or can't be loaded here.
    """
    try:
        return importlib.import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:
        raise MissingToolError(
            f"TensorRT for RTX is needed to build an engine here: {error}",
            hint="pip install 'deepseek-edge[tensorrt-rtx]'",
        ) from error


def prepare_graph(
    model: onnx.ModelProto, precision: str, *, rest: str = "float32"
) -> onnx.ModelProto:
    """The graph that TensorRT is given.

    Args:
        model: static shapes; with Q/DQ for "int8", float for the others; not changed.
        precision: "float32", "float16" or "int8".
        rest: of an int8 graph: "float32" (all that TensorRT 8.5 takes; its flags make float16 of
            it), or "float16", faster where TensorRT is strongly typed (10 and newer).

    Returns:
        float32: as it is; float16: its tensors in float16 between float32 inputs and outputs;
        int8: rewritten to what TensorRT's parser takes.

    Raises:
        UnsupportedError: the graph is not of that kind, or breaks a rule of TensorRT's that can't
            be met without changing its results; node and rule are named.
    """
    from deepseek_edge.backends.tensorrt.contract import symmetric_graph
    from deepseek_edge.backends.tensorrt.half import to_float16
    from deepseek_edge.backends.tensorrt.mixed import with_float16_rest
    from deepseek_edge.integer_form import is_quantized

    if is_quantized(model) != (precision == "int8"):
        kind = "a quantized graph" if precision != "int8" else "a graph without Q/DQ"
        raise UnsupportedError(
            f"{kind} can't become a {precision} engine",
            hint="give the quantized graph for int8, the float graph for the others",
        )
    if precision == "int8":
        return with_float16_rest(model) if rest == "float16" else symmetric_graph(model)
    return to_float16(model) if precision == "float16" else model


def build_engine(
    model: onnx.ModelProto,
    *,
    trt: Any,
    precision: str,
    sm: str | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
    timing_cache: bytes | None = None,
    rest: str = "float32",
) -> EngineFile:
    """Build an engine from a graph as it comes.

    Args:
        model: as :func:`prepare_graph` takes it.
        trt: the module, e.g. of :func:`load_tensorrt_rtx`.
        precision: "float32", "float16" or "int8".
        sm: compute capability to build for, of ``RTX_COMPUTE_CAPABILITIES``; RTX only.
        workspace_bytes: device memory that a layer may use while it runs.
        timing_cache: already checked (``engine_build.unpack_timing_cache``); b"" for a new one.
        rest: as :func:`prepare_graph` takes it.

    Raises:
        UnsupportedError, ModelError, DeepSeekEdgeError: as ``prepare_graph`` and
            ``engine_build.build_engine``.
    """
    graph = prepare_graph(model, precision, rest=rest).SerializeToString(deterministic=True)
    options = EngineOptions(precision, workspace_bytes, sm, timing_cache, is_detailed=True)
    built = build_from_bytes(trt, graph, options)
    return EngineFile(
        data=built.engine,
        precision=precision,
        sm=sm,
        builder=f"{trt.__name__} {trt.__version__}",
        graph_sha256=digest_bytes(graph),
        timing_cache=built.timing_cache,
        warnings=built.warnings,
        weights_bytes=built.weights_bytes,
    )
