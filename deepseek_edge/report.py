"""What ``compile`` and ``profile`` found, and the JSON objects that scripts rely on.

Keys are stable and always present; a value that doesn't apply, wasn't measured, or isn't a
finite number (the SQNR of equal outputs) is ``null``.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_edge.artifacts import (
    Accuracy,
    LayerError,
    ParityFloat,
    ParityGraph,
    Program,
    PrunedSize,
    Rung,
)

SCHEMA = 1

Json = dict[str, Any]


@dataclass(frozen=True)
class ProgramReport:
    """One program of a bundle, and how it was checked.

    Attributes:
        verified: "host", "qemu", "gpu:NAME", or None: it was run nowhere.
        layer_errors: of the layers that this compile quantized, in the graph's order.
    """

    program: Program
    verified: str | None
    parity_graph: ParityGraph | None
    parity_float: ParityFloat | None
    layer_errors: tuple[LayerError, ...] = ()


@dataclass(frozen=True)
class CompileReport:
    """One bundle that a compile wrote.

    Attributes:
        time_s: seconds by stage; "total" is their sum and what lies between.
        notes: what a reader must know beside the figures, e.g. why accuracy wasn't measured.
        ladder: what a gate measured, in order; the last one was shipped.
        pruned: what was removed from the model before.
    """

    bundle: Path
    target: str
    size_bytes: int
    time_s: Mapping[str, float]
    programs: tuple[ProgramReport, ...]
    accuracy: Accuracy | None
    notes: tuple[str, ...] = ()
    ladder: tuple[Rung, ...] = ()
    pruned: PrunedSize | None = None


@dataclass(frozen=True)
class Latency:
    """Of one call, in milliseconds, over ``n`` calls after warm-up."""

    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    n: int


@dataclass(frozen=True)
class Bandwidth:
    """How fast one memory is.

    Attributes:
        holds_bytes: what lies within it; infinite for main memory.
        bytes_s: read and written a second, by all cores in use together.
    """

    holds_bytes: float
    bytes_s: float


@dataclass(frozen=True)
class Roof:
    """What the cores in use can do at most.

    Attributes:
        flop_s: float32 operations a second; a multiply-add counts as two.
        bandwidths: caches, nearest first, and main memory last.
    """

    flop_s: float
    bandwidths: tuple[Bandwidth, ...]


@dataclass(frozen=True)
class LayerTime:
    """Median time of one step, its share of all steps, and what it can be at best.

    Attributes:
        operations: two for each multiply-accumulate, one for each other result.
        bytes: that must be read and written.
        limit_ms: the roofline's; None if the machine's clock or bandwidth isn't known.
        limited_by: "arithmetic", "cache" or "memory".
        limit_share: ``limit_ms`` over ``ms``; above 1 where a core runs faster than its nominal
            clock, or data lie in a nearer cache.
    """

    name: str
    op: str
    ms: float
    share: float
    operations: int | None = None
    bytes: int | None = None
    limit_ms: float | None = None
    limited_by: str | None = None
    limit_share: float | None = None


@dataclass(frozen=True)
class RunConditions:
    """In which state the device was while it was measured; None for what it doesn't tell.

    Attributes:
        temperature_before_c, temperature_after_c: of the hottest sensor on the chip.
        throttled: whether clocks were seen to be lowered for heat or for lack of power.
        power_mode: a Jetson's, e.g. "MAXN".
        cpu_before_hz, cpu_after_hz: clock of the fastest core, as the kernel sees it.
        cpu_most_hz: what that clock may be in this power mode.
        gpu_before_hz, gpu_after_hz, gpu_most_hz: the same of a Jetson's GPU.
        board: the device tree's name of it; PCs have none.
        l4t, jetpack, cuda, tensorrt: versions of NVIDIA's software on a Jetson.
    """

    temperature_before_c: float | None
    temperature_after_c: float | None
    throttled: bool | None
    power_mode: str | None
    cpu_before_hz: int | None
    cpu_after_hz: int | None
    cpu_most_hz: int | None
    gpu_before_hz: int | None
    gpu_after_hz: int | None
    gpu_most_hz: int | None
    board: str | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None


@dataclass(frozen=True)
class ProfileReport:
    """How fast a program is on a device.

    Attributes:
        valid: False if a reader should not trust the times; ``reasons`` say why.
        threads: of the CPU; 0 for a program that runs on the GPU.
        peak_rss_bytes: what opening and running the program added to the process at its peak;
            None where the kernel doesn't tell.
        bandwidths: measured by copying with as many threads, nearest memory first.
        roof: None if the machine's clock or bandwidth isn't known.
        samples_ms: every measured call, in order.
        conditions: None if nobody looked.
    """

    device: str
    emulated: bool
    bundle: str
    program: str
    threads: int
    reasons: tuple[str, ...]
    latency_ms: Latency
    open_ms: float
    peak_rss_bytes: int | None
    layers: tuple[LayerTime, ...]
    bandwidths: tuple[Bandwidth, ...] = ()
    roof: Roof | None = None
    samples_ms: tuple[float, ...] = ()
    conditions: RunConditions | None = None

    @property
    def valid(self) -> bool:
        """True if nothing was seen that spoils the times."""
        return not self.reasons


def compile_json(reports: tuple[CompileReport, ...]) -> Json:
    """One object a call: of the bundle, or of the list of them if there were several targets."""
    objects = [_compile_object(report) for report in reports]
    if len(objects) == 1:
        return objects[0]
    return {"schema": SCHEMA, "compiled": objects}


def profile_json(report: ProfileReport) -> Json:
    """The object that ``profile --format json`` prints."""
    return _finite(
        {
            "schema": SCHEMA,
            "device": report.device,
            "emulated": report.emulated,
            "bundle": report.bundle,
            "program": report.program,
            "threads": report.threads,
            "valid": report.valid,
            "reasons": list(report.reasons),
            "latency_ms": dataclasses.asdict(report.latency_ms),
            "open_ms": report.open_ms,
            "peak_rss_bytes": report.peak_rss_bytes,
            "layers": [dataclasses.asdict(layer) for layer in report.layers],
            "roof": _object(report.roof),
            "conditions": _object(report.conditions),
        }
    )


def describe_conditions(conditions: RunConditions) -> tuple[tuple[str, str], ...]:
    """What is known of the device's state, as names and values for people."""
    rows = []
    before, after = conditions.temperature_before_c, conditions.temperature_after_c
    if before is not None or after is not None:
        rows.append(("temperature", _change(before, after, "C", 0)))
    if conditions.throttled is not None:
        rows.append(("throttled", "yes" if conditions.throttled else "no"))
    if conditions.power_mode is not None:
        rows.append(("power mode", conditions.power_mode))
    for name, first, last, most in (
        ("CPU", conditions.cpu_before_hz, conditions.cpu_after_hz, conditions.cpu_most_hz),
        ("GPU", conditions.gpu_before_hz, conditions.gpu_after_hz, conditions.gpu_most_hz),
    ):
        if first is not None or last is not None:
            limit = "" if most is None else f" of at most {most / 1e9:.2f}"
            before, after = (None if hertz is None else hertz / 1e9 for hertz in (first, last))
            rows.append((f"{name} clock", _change(before, after, "GHz", 2) + limit))
    for name, text in (
        ("board", conditions.board),
        ("JetPack", conditions.jetpack),
        ("L4T", conditions.l4t),
        ("CUDA", conditions.cuda),
        ("TensorRT", conditions.tensorrt),
    ):
        if text is not None:
            rows.append((name, text))
    return tuple(rows)


def _change(before: float | None, after: float | None, unit: str, digits: int) -> str:
    """One value if it is the same at both moments, e.g. "52 to 61 C"."""
    texts = ["unknown" if value is None else f"{value:.{digits}f}" for value in (before, after)]
    return f"{' to '.join(dict.fromkeys(texts))} {unit}"


def describe_pruned(size: PrunedSize) -> str:
    """One line about what pruning removed, with the times that are known."""
    line = (
        f"pruned: {size.parameters_before:,} to {size.parameters_after:,} parameters, "
        f"{size.macs_before:,} to {size.macs_after:,} multiply-accumulates"
    )
    for word, before, after in (
        ("predicted", size.predicted_ms_before, size.predicted_ms_after),
        ("measured", size.measured_ms_before, size.measured_ms_after),
    ):
        if before is not None and after is not None:
            line += f", {word} {before:.3f} to {after:.3f} ms in float32"
    return line


def _compile_object(report: CompileReport) -> Json:
    return _finite(
        {
            "schema": SCHEMA,
            "bundle": str(report.bundle),
            "target": report.target,
            "size_bytes": report.size_bytes,
            "time_s": {"total": None, "quantize": None, "codegen": None, "parity": None}
            | dict(report.time_s),
            "programs": [_program_object(program) for program in report.programs],
            "accuracy": _object(report.accuracy),
            "pruned": _object(report.pruned),
            "ladder": [_rung_object(rung) for rung in report.ladder],
            "notes": list(report.notes),
        }
    )


def _program_object(report: ProgramReport) -> Json:
    program = report.program
    return {
        "id": program.id,
        "backend": program.backend,
        "precision": program.precision,
        "size_bytes": program.size_bytes,
        "code_bytes": program.code_bytes,
        "weights_bytes": program.weights_bytes,
        "arena_bytes": program.arena_bytes,
        "verified": report.verified,
        "parity_graph": _object(report.parity_graph),
        "parity_float": _object(report.parity_float),
        "layers": dataclasses.asdict(program.layers),
        "layer_errors": [dataclasses.asdict(error) for error in report.layer_errors],
    }


def _rung_object(rung: Rung) -> Json:
    """A rung with its accuracy's figures among its own."""
    return {
        "name": rung.name,
        "dataset": rung.dataset,
        "measured_on": rung.measured_on,
        **dataclasses.asdict(rung.accuracy),
        "int8_macs_share": rung.int8_macs_share,
        "kept_float": list(rung.kept_float),
        "is_kept": rung.is_kept,
    }


def _object(
    value: Accuracy | ParityFloat | ParityGraph | PrunedSize | Roof | RunConditions | None,
) -> Json | None:
    return None if value is None else dataclasses.asdict(value)


def _finite(value: Json) -> Json:
    return {key: _plain(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    """JSON has no infinity and no tuple."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
