import json
import math
from dataclasses import replace
from pathlib import Path

from deepseek_edge.artifacts import (
    Accuracy,
    LayerError,
    Layers,
    ParityFloat,
    ParityGraph,
    Program,
    Rung,
)
from deepseek_edge.report import (
    CompileReport,
    Latency,
    LayerTime,
    ProfileReport,
    ProgramReport,
    RunConditions,
    compile_json,
    describe_conditions,
    profile_json,
)

PROGRAM = Program(
    id="cpu-float32",
    backend="tvm",
    precision="float32",
    library=Path("model.so"),
    entries=(),
    features=(),
    size_bytes=4,
    code_bytes=1,
    weights_bytes=2,
    arena_bytes=3,
    layers=Layers(total=1, int8=0, float16=0, float32=1, int8_macs_share=0.0),
)

UNKNOWN = RunConditions(*[None] * 15)


def compile_report(*, verified: str | None = "host", sqnr_db: float = 90.0) -> CompileReport:
    ran = verified is not None
    checked = ProgramReport(
        program=PROGRAM,
        verified=verified,
        parity_graph=ParityGraph(3, None, 1e-6, 1.0) if ran else None,
        parity_float=ParityFloat(3, 1.0, sqnr_db, None) if ran else None,
        layer_errors=(LayerError("/fc/Gemm", 20.0, math.inf),),
    )
    accuracy = Accuracy("top1", 20, 90.0, 85.0, 5.0, 14.9) if ran else None
    ladder = () if accuracy is None else (Rung("mse", "d", "host", accuracy, 0.9, ("fc",), True),)
    times = {"total": 2.0, "codegen": 1.5}
    return CompileReport(Path("m.dse"), "host", 9, times, (checked,), accuracy, (), ladder)


def keys(value: dict[str, object]) -> list[str]:
    return sorted(value)


def test_compile_has_the_keys_that_scripts_rely_on() -> None:
    found = compile_json((compile_report(),))
    assert keys(found) == [
        "accuracy", "bundle", "ladder", "notes", "programs", "pruned", "schema", "size_bytes",
        "target", "time_s",
    ]  # fmt: skip
    assert found["time_s"] == {
        "total": 2.0, "quantize": None, "codegen": 1.5, "parity": None,
    }  # fmt: skip
    assert keys(found["accuracy"]) == [
        "agreement", "ci_pp", "compiled", "drop_pp", "float", "metric", "samples",
    ]  # fmt: skip
    (rung,) = found["ladder"]
    assert rung == {
        "name": "mse", "dataset": "d", "measured_on": "host", "metric": "top1", "samples": 20,
        "float": 90.0, "compiled": 85.0, "drop_pp": 5.0, "ci_pp": 14.9, "agreement": None,
        "int8_macs_share": 0.9, "kept_float": ["fc"], "is_kept": True,
    }  # fmt: skip
    (program,) = found["programs"]
    assert keys(program) == [
        "arena_bytes", "backend", "code_bytes", "id", "layer_errors", "layers", "parity_float",
        "parity_graph", "precision", "size_bytes", "verified", "weights_bytes",
    ]  # fmt: skip
    assert program["layer_errors"] == [
        {"name": "/fc/Gemm", "sqnr_db": 20.0, "added_sqnr_db": None},
    ]
    assert keys(program["parity_graph"]) == ["max_abs", "max_steps", "samples", "within"]
    assert keys(program["parity_float"]) == ["cosine", "samples", "sqnr_db", "top1_agreement"]
    assert keys(program["layers"]) == [
        "float16", "float32", "int8", "int8_macs_share", "kept_float", "total",
    ]  # fmt: skip


def test_a_program_that_did_not_run_has_the_same_keys_and_nulls() -> None:
    ran, not_run = compile_json((compile_report(),)), compile_json((compile_report(verified=None),))
    assert keys(ran) == keys(not_run)
    assert keys(ran["programs"][0]) == keys(not_run["programs"][0])
    assert not_run["accuracy"] is None
    assert not_run["programs"][0]["parity_graph"] is None


def test_several_targets_are_one_object_with_a_list() -> None:
    found = compile_json((compile_report(), compile_report()))
    assert keys(found) == ["compiled", "schema"]
    assert found["compiled"][0] == compile_json((compile_report(),))


def test_an_infinite_sqnr_is_null_since_json_has_no_infinity() -> None:
    found = compile_json((compile_report(sqnr_db=math.inf),))
    assert found["programs"][0]["parity_float"]["sqnr_db"] is None
    json.dumps(found, allow_nan=False)


def test_profile_has_the_keys_that_scripts_rely_on() -> None:
    report = ProfileReport(
        device="host",
        emulated=False,
        bundle="m.dse",
        program="cpu-float32",
        threads=2,
        reasons=("other processes used 1.0 cores",),
        latency_ms=Latency(1.0, 2.0, 2.0, 3.0, 4.0, 100),
        open_ms=0.5,
        peak_rss_bytes=None,
        layers=(LayerTime("/fc/Gemm", "Gemm", 1.5, 1.0),),
        conditions=UNKNOWN,
    )
    found = profile_json(report)
    assert keys(found) == [
        "bundle", "conditions", "device", "emulated", "latency_ms", "layers", "open_ms",
        "peak_rss_bytes", "program", "reasons", "roof", "schema", "threads", "valid",
    ]  # fmt: skip
    assert keys(found["latency_ms"]) == [
        "mean", "min", "n", "p50", "p90", "p99",
    ]  # fmt: skip
    (layer,) = found["layers"]
    assert keys(layer) == [
        "bytes", "limit_ms", "limit_share", "limited_by", "ms", "name", "op", "operations", "share",
    ]  # fmt: skip
    assert (layer["name"], layer["ms"], layer["limit_ms"]) == ("/fc/Gemm", 1.5, None)
    assert found["roof"] is None
    assert keys(found["conditions"]) == [
        "board", "cpu_after_hz", "cpu_before_hz", "cpu_most_hz", "cuda", "gpu_after_hz",
        "gpu_before_hz", "gpu_most_hz", "jetpack", "l4t", "power_mode", "temperature_after_c",
        "temperature_before_c", "tensorrt", "throttled",
    ]  # fmt: skip
    assert set(found["conditions"].values()) == {None}
    assert (found["valid"], found["peak_rss_bytes"]) == (False, None)


def test_conditions_are_described_as_far_as_they_are_known() -> None:
    assert describe_conditions(UNKNOWN) == ()
    found = replace(
        UNKNOWN,
        temperature_before_c=51.6,
        temperature_after_c=61.4,
        throttled=False,
        power_mode="MAXN",
        cpu_before_hz=2_201_600_000,
        cpu_after_hz=2_201_600_000,
        cpu_most_hz=2_201_600_000,
        gpu_after_hz=306_000_000,
        jetpack="6.2",
    )
    assert describe_conditions(found) == (
        ("temperature", "52 to 61 C"),
        ("throttled", "no"),
        ("power mode", "MAXN"),
        ("CPU clock", "2.20 GHz of at most 2.20"),
        ("GPU clock", "unknown to 0.31 GHz"),
        ("JetPack", "6.2"),
    )
