"""A stand-in for the CUDA driver, for the tests of what runs on it."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek_edge.runtime.cuda_driver import CudaDriver
from tests.runtime.cuda_stub import build_stub


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def driver(cuda_library: Path) -> Iterator[CudaDriver]:
    """A driver whose memory must all be given back at the end."""
    driver = CudaDriver(library=str(cuda_library))
    yield driver
    driver.close()
    assert ctypes.CDLL(str(cuda_library)).stub_allocated() == 0
