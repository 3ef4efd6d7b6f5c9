import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from deepseek_edge.profiling import measure as measuring
from deepseek_edge.profiling.measure import latency, measure
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from tests.tiny_model import IN, LAYER, TinyBackend, tiny_onnx

OF: Any = {"bundle": "b", "program": "p", "steps": (LAYER,), "target": load_target("host")}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = TinyBackend()(
        tiny_onnx(),
        load_target("host"),
        batches=(1,),
        work_dir=tmp_path_factory.mktemp("tiny"),
        progress=lambda *_: None,
    )
    return program.library


def test_percentiles_are_calls_that_happened() -> None:
    found = latency([float(i) for i in range(1, 101)])
    assert (found.min, found.p50, found.p90, found.p99, found.n) == (1, 50, 90, 99, 100)
    assert found.mean == 50.5
    assert latency([7.0]).p99 == 7.0


def test_a_profile_has_all_of_its_figures(library: Path) -> None:
    inputs = {"x": np.ones((1, IN), dtype=np.float32)}
    report = measure(partial(Engine, library), inputs, **OF, threads=1, queries=150)
    assert (report.device, report.emulated, report.threads) == ("host", False, 1)
    assert report.latency_ms.n == len(report.samples_ms) == 150
    assert 0 < report.latency_ms.min <= report.latency_ms.p50 <= report.latency_ms.p99
    assert report.open_ms > 0
    assert report.conditions is not None
    assert all(1e8 < level.bytes_s < 1e13 for level in report.bandwidths)
    assert report.bandwidths[-1].holds_bytes == math.inf
    assert [(layer.name, layer.op) for layer in report.layers] == [("/fc/Gemm", "Gemm+Relu")]
    assert sum(layer.share for layer in report.layers) == pytest.approx(1.0)
    assert report.peak_rss_bytes is None or report.peak_rss_bytes < 50e6


def test_the_cpus_limits_say_nothing_of_a_gpu(library: Path) -> None:
    inputs = {"x": np.ones((1, IN), dtype=np.float32)}
    report = measure(partial(Engine, library), inputs, **OF, threads=1, queries=5, on_gpu=True)
    assert (report.roof, report.bandwidths) == (None, ())
    (layer,) = report.layers
    assert layer.limit_ms is None
    assert layer.operations == LAYER.operations


def test_too_few_calls_make_a_profile_doubtful(library: Path) -> None:
    inputs = {"x": np.ones((1, IN), dtype=np.float32)}
    report = measure(partial(Engine, library), inputs, **OF, threads=1, queries=5)
    assert not report.valid
    assert "5 samples: a p99 needs 100" in report.reasons


class DriftingEngine:
    """Each window is twice as slow as the one before."""

    def __init__(self) -> None:
        self.windows = 0

    def time(self, repetitions: int) -> NDArray[Any]:
        self.windows += 1
        return np.full(repetitions, 1000 * 2**self.windows, dtype=np.int64)


def test_times_that_drift_end_the_warm_up_as_unstable() -> None:
    engine = DriftingEngine()
    stable, _ = measuring.warm_up(cast(Engine, engine), limit_s=0.0)
    assert not stable
    assert engine.windows > 1
