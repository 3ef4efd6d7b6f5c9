import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.power_mode import (
    PowerMode,
    fastest_mode,
    parse_power_mode,
    parse_power_modes,
    parse_power_status,
    read_power_mode,
    read_power_modes,
)
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import (
    NVPMODEL_AS_USER,
    NVPMODEL_SUPER,
    ORIN_NANO,
    RecordedSystem,
)

MODES = (PowerMode(0, "15W"), PowerMode(1, "25W"), PowerMode(2, "MAXN_SUPER"), PowerMode(3, "7W"))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", PowerMode(0, "MAXN")),
        ("NV Power Mode: MAXN\n", PowerMode(None, "MAXN")),
        (NVPMODEL_AS_USER, PowerMode(7, "MODE_15W_DESKTOP")),
        ("NVPM VERB: Current mode: NV Power Mode: MODE_15W_6CORE\n2\n", (2, "MODE_15W_6CORE")),
    ],
)
def test_the_mode_is_read_with_root_and_without(text: str, mode: PowerMode) -> None:
    assert parse_power_mode(text) == mode


def test_modes_are_those_of_the_file_and_not_of_its_comments() -> None:
    assert parse_power_modes(NVPMODEL_SUPER) == MODES


def test_the_fastest_mode_is_not_always_number_0() -> None:
    assert fastest_mode(MODES) == PowerMode(2, "MAXN_SUPER")


def test_without_maxn_watts_and_then_cores_decide() -> None:
    xavier_nx = (
        PowerMode(0, "MODE_15W_2CORE"),
        PowerMode(2, "MODE_15W_6CORE"),
        PowerMode(3, "10W"),
    )
    assert fastest_mode(xavier_nx) == PowerMode(2, "MODE_15W_6CORE")


def test_names_that_say_nothing_give_no_advice() -> None:
    assert fastest_mode((PowerMode(0, "quiet"), PowerMode(1, None))) is None
    assert fastest_mode(()) is None


def test_the_status_file_is_asked_before_the_tool() -> None:
    system = RecordedSystem(ORIN_NANO, {"nvpmodel": "NV Power Mode: MAXN\n0\n"})
    modes = read_power_modes(system)
    assert read_power_mode(system, modes) == PowerMode(0, "15W")
    assert system.started == []


def test_the_tool_is_asked_where_there_is_no_status_file() -> None:
    files = {"/etc/nvpmodel.conf": NVPMODEL_SUPER}
    system = RecordedSystem(files, {"nvpmodel": NVPMODEL_AS_USER})
    assert read_power_mode(system, MODES) == PowerMode(7, "MODE_15W_DESKTOP")


def test_a_machine_without_nvpmodel_has_no_mode_and_no_tool_is_started() -> None:
    system = RecordedSystem({})
    assert read_power_modes(system) == ()
    assert read_power_mode(system, ()) is None
    assert system.started == []


@pytest.mark.parametrize("parse", [parse_power_mode, parse_power_modes, parse_power_status])
@pytest.mark.parametrize("text", ["", "NVPM ERROR: optMask is 1, no request for power mode\n"])
def test_an_answer_without_a_mode_is_refused(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(ProbeError):
        parse(text)


@given(st.text() | st.text(alphabet="NV Power Mode:\n0123456789pmode<>ID=NAME").map(str))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_power_mode, parse_power_modes, parse_power_status):
        try:
            parse(text)
        except ProbeError as error:
            assert error.hint is not None
