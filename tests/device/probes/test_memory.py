import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.memory import Memory, parse_memory, read_memory
from deepseek_edge.device.probes.system import LocalSystem
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import MEMINFO, RecordedSystem


def test_figures_are_bytes() -> None:
    assert parse_memory(MEMINFO) == Memory(7_802_696 * 1024, 4_562_928 * 1024, 0, 0)


def test_this_machine_has_memory() -> None:
    found = read_memory(LocalSystem())
    assert found is not None
    assert 0 < found.available_bytes < found.total_bytes


def test_a_machine_without_the_file_is_no_error() -> None:
    assert read_memory(RecordedSystem({})) is None


def test_a_missing_figure_is_named() -> None:
    with pytest.raises(ProbeError, match="MemAvailable"):
        parse_memory("MemTotal:  5 kB\n")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_memory(text)
    except ProbeError as error:
        assert error.hint is not None
