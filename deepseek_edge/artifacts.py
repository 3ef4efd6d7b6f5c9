"""The values that travel between the stages of the pipeline."""

import builtins
from dataclasses import dataclass
from pathlib import Path

from deepseek_edge.tensors import TensorSpec


@dataclass(frozen=True)
class Step:
    """One kernel call of a program, as profiles and reports name it.

    Attributes:
        name: the source graph's node that the step is anchored on, e.g. "/blocks.0/Conv".
        op: what it does, e.g. "Conv+Clip", "Transpose".
        macs: multiply-accumulates of convolutions and matrix products.
        bytes_read, bytes_written: of activations and constants, each tensor counted once.
        tasks: how many pieces the step can be split into over threads.
        operations: two for each multiply-accumulate, one for each other result.
        lane_macs: multiply-accumulates of one instruction in each 32 bits of a register: 1 in
            float32, 2 to 8 on int8.
    """

    name: str
    op: str
    macs: int
    bytes_read: int
    bytes_written: int
    tasks: int
    operations: int = 0
    lane_macs: int = 1


@dataclass(frozen=True)
class Entry:
    """One way into a program: the same weights for one batch size.

    Attributes:
        name: "batch1", "batch4", ...
        inputs, outputs: in the order of the source graph.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class KeptFloat:
    """A layer that is not INT8 in a program that could have been."""

    name: str
    reason: str


@dataclass(frozen=True)
class Layers:
    """How the source graph's layers (Conv, Gemm, MatMul) are computed."""

    total: int
    int8: int
    float16: int
    float32: int
    int8_macs_share: float | None
    kept_float: tuple[KeptFloat, ...] = ()


@dataclass(frozen=True)
class Program:
    """What a back end hands on: a library that runs, and what is known about it.

    Attributes:
        id: unique in a bundle, e.g. "cpu-float32".
        backend: "tvm" or "tensorrt".
        precision: "float32", "float16", "int8" or "w4a16".
        library: the shared object (model.so) in a work directory of the caller's; of TensorRT,
            what the engine is built from on the board (recipe.json).
        entries: the first one is the default.
        features: CPU features the kernels use (names as in the target), checked at open.
        code_bytes: machine code of kernels and runtime.
        weights_bytes: constants in the library.
        arena_bytes: memory for all activations, inputs and outputs.
        gpu: the architecture that the kernels are for, e.g. "sm_87"; None: they run on the CPU.
        more_files: that belong to the library, beside it.
    """

    id: str
    backend: str
    precision: str
    library: Path
    entries: tuple[Entry, ...]
    features: tuple[str, ...]
    size_bytes: int
    code_bytes: int
    weights_bytes: int
    arena_bytes: int
    layers: Layers
    gpu: str | None = None
    more_files: tuple[Path, ...] = ()

    @property
    def members(self) -> dict[str, Path]:
        """The files of the program by their names in a bundle; the library is the first."""
        files = (self.library, *self.more_files)
        return {f"programs/{self.id}/{path.name}": path for path in files}


@dataclass(frozen=True)
class ParityGraph:
    """The artifact against onnxruntime on the same graph (design law 5).

    Attributes:
        samples: how many inputs were compared.
        max_steps: largest difference in quantization steps (int8 outputs), else None.
        max_abs: largest absolute difference over the outputs' range (max - min of the reference).
        within: share of output elements inside the tolerance.
    """

    samples: int
    max_steps: int | None
    max_abs: float
    within: float


@dataclass(frozen=True)
class ParityFloat:
    """The artifact against the float model; cosine and SQNR pooled over all outputs."""

    samples: int
    cosine: float
    sqnr_db: float
    top1_agreement: float | None


@dataclass(frozen=True)
class LayerError:
    """What rounding to INT8 does to a layer's output, on calibration samples.

    Attributes:
        sqnr_db: of the quantized graph against the float one; infinite if they are equal.
        added_sqnr_db: with this layer alone quantized, its inputs those of the float graph: the
            error that enters here.
    """

    name: str
    sqnr_db: float
    added_sqnr_db: float


@dataclass(frozen=True)
class Agreement:
    """Samples that were run through a program and through its graph in onnxruntime.

    Attributes:
        samples: how many.
        equal: of how many all outputs are equal.
        same: how many count the same in the metric.
    """

    samples: int
    equal: int
    same: int


@dataclass(frozen=True)
class Accuracy:
    """A task metric, of the float model and of the artifact, in percent.

    Attributes:
        samples: that the figures are of.
        float: of the model before it was pruned, if it was.
        drop_pp: float minus compiled, in percentage points.
        ci_pp: half the width of the 95 % confidence interval of ``drop_pp``: the samples are the
            same, so it is that of paired observations.
        agreement: None if each of the samples was run through the artifact itself. Otherwise
            these were, and if all count the same, the figures are those of its graph over all
            samples; if not, the figures are the artifact's over these.
    """

    metric: str
    samples: int
    # From here on "float" is this field, so the type is named in full.
    float: builtins.float
    compiled: builtins.float
    drop_pp: builtins.float
    ci_pp: builtins.float
    agreement: Agreement | None = None


@dataclass(frozen=True)
class PrunedSize:
    """A model before and after channels were removed, float.

    Attributes:
        predicted_ms_before, predicted_ms_after: of one call on the target; None unless a latency
            budget asked for it.
        measured_ms_before, measured_ms_after: likewise, if the target is this machine.
    """

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    predicted_ms_before: float | None = None
    predicted_ms_after: float | None = None
    measured_ms_before: float | None = None
    measured_ms_after: float | None = None


@dataclass(frozen=True)
class Rung:
    """One measurement of one way to quantize, of those that a gate tried.

    Attributes:
        name: what was done, e.g. "mse, up to 5% in float".
        dataset: that it was measured on.
        measured_on: "host" or "qemu": the artifact; "onnxruntime": the graph (its integer form);
            "onnxruntime and qemu": the graph, and for a part of the samples the artifact.
        int8_macs_share: of the multiply-accumulates, 0 to 1; None if it isn't known.
        kept_float: layers that were kept float for accuracy or speed.
        is_kept: no more is lost than was promised.
    """

    name: str
    dataset: str
    measured_on: str
    accuracy: Accuracy
    int8_macs_share: float | None
    kept_float: tuple[str, ...]
    is_kept: bool
