from dataclasses import replace

import pytest

from deepseek_edge.backends.tvm.graph import Scratch, Value
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, grain
from deepseek_edge.target import load_target

# 16 multiply-accumulates a nanosecond; 8 bytes a nanosecond are assumed of memory.
TARGET = replace(load_target("raspberry-pi-4"), peak_fma_per_cycle=8, clock_hz=2_000_000_000)


def step(tasks: int, macs: int = 0, size_bytes: int = 0) -> Lowering:
    return Lowering(None, (Value("x", "uint8", (size_bytes,)),), tasks, macs)


@pytest.mark.parametrize(
    ("lowering", "expected"),
    [
        (step(100, macs=16 * 1999), 100),
        (step(100, macs=16 * 2000), 50),
        (step(100, macs=16 * 10_000), 10),
        (step(7, macs=16 * 10_000), 1),
        (step(50_000, size_bytes=8 * 4000), 12_500),
        (step(1000, macs=0), 1000),
    ],
)
def test_a_thread_gets_at_least_a_microsecond_of_work(lowering: Lowering, expected: int) -> None:
    assert grain(lowering, TARGET) == expected


def test_a_threads_own_memory_is_not_moved() -> None:
    scratch = Scratch("s", "uint8", (1 << 20,))
    assert grain(Lowering(None, (scratch,), 10, 0), TARGET) == 10
