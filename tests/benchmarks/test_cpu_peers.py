import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.cpu_row import check
from benchmarks.peers import PeerError, Source
from benchmarks.peers.conversions import convert
from benchmarks.peers.process import PeerProcess
from tests.tiny_model import tiny_onnx


@pytest.fixture
def source(tmp_path: Path) -> Source:
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx(), graph)
    return Source(graph, graph)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[PeerProcess]:
    with PeerProcess("onnxruntime", tmp_path / "log") as process:
        yield process


def is_stopped(process: PeerProcess) -> bool:
    deadline = time.monotonic() + 5.0  # the signal arrives a moment after it is sent
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.01)
    return False


def test_a_peer_computes_and_is_timed_in_a_process_of_its_own(
    peer: PeerProcess, source: Source, tmp_path: Path
) -> None:
    checked = check(source)
    peer.load(convert(peer, source, tmp_path), source, threads=1)
    outputs = peer.run(checked.inputs)
    for expected, actual in zip(checked.outputs.values(), outputs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    times = peer.time(4)
    assert len(times) == 4
    assert min(times) > 0
    assert peer.pid != os.getpid()


def test_no_thread_of_a_peer_runs_between_its_turns(peer: PeerProcess) -> None:
    assert peer.versions(["onnxruntime", "no-such-package"])["no-such-package"] is None
    assert is_stopped(peer)
    used = peer.processor_s()
    assert used > 0
    assert peer.versions(["onnxruntime"])["onnxruntime"]  # and goes on when it is asked


def test_a_model_that_is_refused_and_a_missing_load_are_reasons(
    peer: PeerProcess, tmp_path: Path
) -> None:
    with pytest.raises(PeerError, match="nothing is loaded"):
        peer.time(1)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(PeerError, match=r"broken\.onnx"):
        peer.load(broken, Source(broken, broken), threads=1)


def test_a_crash_is_a_reason(peer: PeerProcess) -> None:
    peer.versions(["onnxruntime"])
    os.kill(peer.pid, signal.SIGKILL)
    with pytest.raises(PeerError, match="killed by signal 9"):
        peer.time(1)


def test_a_peer_that_is_not_installed_is_a_reason(tmp_path: Path, source: Source) -> None:
    log = tmp_path / "log"
    with (
        PeerProcess("no_such_peer", log) as process,
        pytest.raises(PeerError, match="not installed"),
    ):
        process.convert(source, tmp_path)


def test_what_libraries_print_does_not_reach_the_answers(tmp_path: Path, source: Source) -> None:
    log = tmp_path / "log"
    with PeerProcess("onnxruntime", log) as process:
        with pytest.raises(PeerError):
            process.load(tmp_path / "missing.onnx", source, threads=1)
        assert process.versions(["onnxruntime"])["onnxruntime"]
    assert "missing.onnx" in log.read_text()  # the traceback
