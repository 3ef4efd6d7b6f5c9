"""ONNX -> TensorRT engine, by what the Python APIs of TensorRT 8.5, 10, 11 and RTX have in common.

It runs on the workstation (``tensorrt_rtx``), and on boards with Python 3.8 (``tensorrt`` of
JetPack) as a part of dse_build.py. So it needs the standard library only, and is given the module.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Callable

from deepseek_edge.errors import DeepSeekEdgeError, ModelError, UnsupportedError

ENGINE_PRECISIONS = ("float32", "float16", "int8")
_CACHE_SCHEMA = "deepseek-edge timing cache 1"
_MOST_MESSAGES = 20
# TensorRT 10 and RTX log it while building.
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    Attributes:
        precision: of ``ENGINE_PRECISIONS``. Where TensorRT is strongly typed the graph's own types
            decide: for float16 a float16 graph, for int8 a Q/DQ graph has to be given.
        workspace_bytes: device memory that a layer may use while it runs.
        sm: the GPU to build for, e.g. "8.6": RTX only. None for the GPU that is there.
        timing_cache: what TensorRT measured before, already checked; b"" for a new one, None for
            none.
        is_detailed: keep in the engine what ``layer_information`` says of each layer.
    """

    precision: str
    workspace_bytes: int
    sm: str | None = None
    timing_cache: bytes | None = None
    is_detailed: bool = False


@dataclass(frozen=True)
class BuiltEngine:
    """What TensorRT made.

    Attributes:
        engine: for one GPU and one version of TensorRT.
        timing_cache: what it measured, None if it keeps nothing.
        warnings: TensorRT's, at most 20.
        weights_bytes: of the constants in the engine, without its kernels; None if TensorRT
            doesn't say.
    """

    engine: bytes
    timing_cache: bytes | None
    warnings: tuple[str, ...]
    weights_bytes: int | None = None


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX, which builds without a GPU and keeps no timing cache."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def is_strongly_typed(trt: Any) -> bool:
    """Whether a tensor's type in the graph decides; before TensorRT 10 flags of the builder do."""
    can_choose = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return can_choose or not hasattr(trt.BuilderFlag, "FP16")


def version_text(trt: Any) -> str:
    """What an engine's version has to be equal in: "TensorRT 10.3.0", "TensorRT-RTX 1.7.1"."""
    name = "TensorRT-RTX" if is_rtx(trt) else "TensorRT"
    # A fourth number, where there is one, counts builds of the same version.
    return name + " " + ".".join(str(trt.__version__).split(".")[:3])


def build_engine(trt: Any, graph: bytes, options: EngineOptions) -> BuiltEngine:
    """Build an engine.

    Args:
        trt: ``tensorrt`` (8.5 or newer) or ``tensorrt_rtx``.
        graph: an ONNX file's content, static shapes, weights inside.
        options: how.

    Raises:
        UnsupportedError: TensorRT lacks an operator or a type, named with its node; it can't build
            in this precision or for this GPU.
        ModelError: it can't read the graph.
        DeepSeekEdgeError: the build failed, e.g. for want of memory; TensorRT's reason is named.
    """
    if options.precision not in ENGINE_PRECISIONS:
        raise UnsupportedError(
            f"TensorRT engines have no precision {options.precision}",
            hint="one of " + ", ".join(ENGINE_PRECISIONS),
        )
    logger = start(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise DeepSeekEdgeError(_failure("TensorRT can't start", logger))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _parser_error(parser, logger)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    cache = _use_timing_cache(trt, config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(logger)
    kept = None if cache is None else bytes(config.get_timing_cache().serialize())
    return BuiltEngine(bytes(plan), kept, tuple(logger.warnings), logger.weights_bytes)


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if is_strongly_typed(trt) else "EXPLICIT_BATCH"
    # A version that knows nothing else has no flag for it.
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.is_detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not is_strongly_typed(trt):
        # The rest of an int8 net may be float16: never slower, and what is quantized decides.
        if options.precision in ("float16", "int8"):
            config.set_flag(trt.BuilderFlag.FP16)
        if options.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    if options.precision == "float32":
        # TensorRT's default rounds factors to 10 bits, like float16.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.sm is not None:
        _build_for(trt, config, options.sm)


def _build_for(trt: Any, config: Any, sm: str) -> None:
    """Choose the GPU: its compute capability, e.g. "8.6"."""
    known = getattr(trt, "ComputeCapability", None) if is_rtx(trt) else None
    name = "SM" + sm.replace(".", "")
    if known is None or not hasattr(known, name):
        names = sorted(n for n in dir(known) if n.startswith("SM")) if known is not None else []
        raise UnsupportedError(
            f"{trt.__name__} can't build an engine for compute capability {sm} here",
            hint="it builds for " + ", ".join(names) if names else "it builds on the board itself",
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(known, name), 0)


def _use_timing_cache(trt: Any, config: Any, data: bytes | None) -> Any:
    # On RTX these functions do nothing, and warn that they are deprecated.
    if data is None or is_rtx(trt):
        return None
    cache = config.create_timing_cache(data)
    # The second argument: a cache of another GPU or version is refused, not used.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def start(trt: Any) -> Any:
    """Load TensorRT's own plugins, which its parser makes of some operators before TensorRT 10.

    Returns:
        A logger that keeps errors and warnings (``.errors``, ``.warnings``) and prints nothing.
    """
    logger = _make_logger(trt)
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    return logger


def _make_logger(trt: Any) -> Any:
    errors = (trt.Logger.INTERNAL_ERROR, trt.Logger.ERROR)

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.weights_bytes: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.errors.append(message)
            elif severity == trt.Logger.WARNING and len(self.warnings) < _MOST_MESSAGES:
                self.warnings.append(message)
            else:
                found = _WEIGHTS.search(message)
                self.weights_bytes = int(found[1]) if found else self.weights_bytes

    return Collector()


def _parser_error(parser: Any, logger: Any) -> DeepSeekEdgeError:
    """The first error of the parser, as one of ours."""
    if parser.num_errors == 0:
        return ModelError(_failure("TensorRT can't read the graph", logger))
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    if code in ("MODEL_DESERIALIZE_FAILED", "INVALID_GRAPH"):
        return ModelError(f"TensorRT can't read the graph: {_one_line(error.desc())}")
    return UnsupportedError(
        f"TensorRT refuses {_node_text(error)}: {_one_line(error.desc())}",
        hint="the CUDA program, then the CPU program take over; or export the model without it",
    )


def _node_text(error: Any) -> str:
    """Operator and name of the node; before TensorRT 10 an error knows its index only."""
    operator = getattr(error, "node_operator", str)()
    name = getattr(error, "node_name", str)()
    if operator or name:
        return f"{operator or 'an operator'} (node {name!r})"
    return f"node {error.node()} of the graph"


def _build_error(logger: Any) -> DeepSeekEdgeError:
    text = _failure("TensorRT built no engine", logger)
    lowered = text.lower()
    if "memory" in lowered and ("out of" in lowered or "insufficient" in lowered):
        return DeepSeekEdgeError(text, hint="end other programs, add swap, or lower the workspace")
    if "could not find any implementation" in lowered:
        return UnsupportedError(
            text, hint="the CUDA program, then the CPU program take over; or raise the workspace"
        )
    return DeepSeekEdgeError(text)


def _failure(what: str, logger: Any) -> str:
    # The last error is mostly the builder's "it failed"; the first one says why.
    reason = _one_line(logger.errors[0]) if logger.errors else "it gives no reason"
    return f"{what}: {reason}"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def pack_timing_cache(data: bytes, origin: str) -> bytes:
    """A timing cache with its origin and digest, as it is kept on disk.

    Args:
        data: TensorRT's.
        origin: what it holds for, e.g. GPU and versions; another one refuses it.
    """
    header = {"schema": _CACHE_SCHEMA, "origin": origin, "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(header, sort_keys=True).encode("ascii") + b"\n" + data


def unpack_timing_cache(packed: bytes, origin: str) -> bytes:
    """What ``pack_timing_cache`` packed, for TensorRT to read.

    Raises:
        ModelError: it is damaged, or of another origin; TensorRT must not be given it.
    """
    line, _, data = packed.partition(b"\n")
    try:
        header = json.loads(line.decode("ascii"))
        found = (header["schema"], header["origin"], header["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("the timing cache is damaged: it has no header") from error
    if found[:2] != (_CACHE_SCHEMA, origin):
        raise ModelError(f"the timing cache is of {found[1]}, not of {origin}")
    if found[2] != hashlib.sha256(data).hexdigest():
        raise ModelError("the timing cache is damaged: its SHA-256 differs")
    return data


def layer_information(trt: Any, engine: Any) -> str:
    """What an opened engine says of its layers: JSON, as of ``trtexec --exportLayerInfo``.

    Raises:
        UnsupportedError: TensorRT can't say.
    """
    inspector: Any = engine.create_engine_inspector()
    if inspector is None:
        raise UnsupportedError("TensorRT gives no layer information for this engine")
    read: Callable[[Any], str] = inspector.get_engine_information
    return read(trt.LayerInformationFormat.JSON)
