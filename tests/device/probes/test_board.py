import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.board import is_jetson_model, read_board, read_tegrastats
from deepseek_edge.device.probes.findings import describe_board
from deepseek_edge.device.probes.power_mode import PowerMode
from deepseek_edge.device.probes.system import LocalSystem
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import (
    DESKTOP,
    ORIN_NANO,
    ORIN_NANO_36,
    PACKAGES_36,
    RASPBERRY_PI_5,
    RecordedSystem,
)


def test_a_jetson_says_all_of_it() -> None:
    board = read_board(RecordedSystem(ORIN_NANO, {"dpkg-query": PACKAGES_36}))
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    assert board.software is not None
    assert board.software.l4t == "36.4.3"
    assert board.power_mode == PowerMode(0, "15W")
    assert board.gpu_clock is not None
    assert board.memory is not None
    assert board.throttling is not None


def test_other_machines_are_asked_for_nothing_of_nvidias() -> None:
    for files in (RASPBERRY_PI_5, DESKTOP):
        system = RecordedSystem(files)
        board = read_board(system)
        assert (board.software, board.power_mode, board.gpu_clock) == (None, None, None)
        assert system.started == []


def test_this_machine_can_be_read() -> None:
    assert read_board(LocalSystem()).memory is not None


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("Jetson-AGX", True),
        ("NVIDIA Orin Nano Developer Kit", True),
        ("NVIDIA Orin Jetson-Small Developer Kit", True),
        ("Raspberry Pi 5 Model B Rev 1.0", False),
        (None, False),
    ],
)
def test_jetsons_are_told_by_their_names(model: str | None, verdict: bool) -> None:
    assert is_jetson_model(model) is verdict


@given(st.sampled_from(sorted(ORIN_NANO)), st.text() | st.sampled_from(list(ORIN_NANO.values())))
def test_whatever_a_file_says_a_board_is_read_or_refused(path: str, text: str) -> None:
    tools = {"dpkg-query": text, "nvpmodel": text}
    try:
        describe_board(read_board(RecordedSystem(ORIN_NANO | {path: text}, tools)))
    except ProbeError as error:
        assert error.hint is not None


def test_one_line_of_tegrastats_is_read() -> None:
    found = read_tegrastats(RecordedSystem({}, {"tegrastats": f"{ORIN_NANO_36}\n"}))
    assert found is not None
    assert found.rails[0].now_mw == 4940
    assert read_tegrastats(RecordedSystem({})) is None
    with pytest.raises(ProbeError):
        read_tegrastats(RecordedSystem({}, {"tegrastats": "Cannot open socket\n"}))
