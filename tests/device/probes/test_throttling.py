from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.throttling import (
    Throttling,
    parse_firmware_throttling,
    read_throttling,
    throttled_between,
)
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import DESKTOP, ORIN_NANO, RASPBERRY_PI_5, RecordedSystem

OVER_CURRENT = "/sys/class/hwmon/hwmon3/oc3_event_cnt"
FIRMWARE = "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
COOLING = "/sys/class/thermal/cooling_device"


def read(files: Mapping[str, str], tools: Mapping[str, str] | None = None) -> Throttling:
    found = read_throttling(RecordedSystem(files, tools))
    assert found is not None
    return found


def test_fans_and_warnings_throttle_nothing_and_disabled_events_do_not_count() -> None:
    found = read(ORIN_NANO)
    assert found.active == ()
    assert found.events == {"under-voltage": 0, "instantaneous over-current": 37}


@pytest.mark.parametrize(
    "kind",
    ["cpu-throttle-alert", "thermal-cpufreq-0", "cpufreq-cpu0", "thermal-devfreq-0", "Processor"],
)
def test_a_cooling_device_of_clocks_that_acts_is_throttling(kind: str) -> None:
    files = {f"{COOLING}7/type": f"{kind}\n", f"{COOLING}7/cur_state": "2\n"}
    assert read(ORIN_NANO | files).active == (kind,)


def test_several_cooling_devices_of_one_kind_count_as_the_strongest() -> None:
    files = {
        f"{COOLING}0/type": "Processor\n", f"{COOLING}0/cur_state": "1\n",
        f"{COOLING}1/type": "Processor\n", f"{COOLING}1/cur_state": "0\n",
    }  # fmt: skip
    assert read(files).active == ("Processor",)


def test_events_between_two_moments_are_named_once_each() -> None:
    before, after = read(ORIN_NANO), read(ORIN_NANO | {OVER_CURRENT: "39\n"})
    assert throttled_between(before, after) == ("instantaneous over-current",)
    assert throttled_between(before, before) == ()


def test_what_acts_at_either_moment_is_named() -> None:
    quiet, hot = Throttling((), {}), Throttling(("Processor",), {})
    assert throttled_between(quiet, hot) == throttled_between(hot, quiet) == ("Processor",)
    assert throttled_between(hot, hot) == ("Processor",)
    assert throttled_between(None, quiet) == ()


@pytest.mark.parametrize("text", ["throttled=0x50005\n", "50005\n", "0x50005"])
def test_the_bits_of_a_raspberry_pi(text: str) -> None:
    found = parse_firmware_throttling(text)
    assert found.active == ("under-voltage", "the firmware throttled the clocks")
    assert [name for name, count in found.events.items() if count] == list(found.active)


def test_what_happened_before_the_run_does_not_spoil_it() -> None:
    before = read(RASPBERRY_PI_5)
    assert before.active == ()
    assert throttled_between(before, before) == ()
    after = read(RASPBERRY_PI_5 | {FIRMWARE: "c0000\n"})
    assert throttled_between(before, after) == ("the firmware throttled the clocks",)


def test_the_tool_is_asked_only_on_a_raspberry_pi_without_the_file() -> None:
    files = {name: text for name, text in RASPBERRY_PI_5.items() if name != FIRMWARE}
    assert read(files, {"vcgencmd": "throttled=0x4\n"}).active == (
        "the firmware throttled the clocks",
    )
    for system in (RecordedSystem(RASPBERRY_PI_5), RecordedSystem(DESKTOP)):
        read_throttling(system)
        assert system.started == []


def test_a_machine_that_cannot_tell_is_told_from_one_that_is_not_throttled() -> None:
    assert read_throttling(RecordedSystem({})) is None
    assert read(DESKTOP) == Throttling((), {})


@pytest.mark.parametrize("text", ["", "error=1", "throttled=", "VCHI initialization failed\n"])
def test_an_answer_without_bits_is_refused(text: str) -> None:
    with pytest.raises(ProbeError, match="firmware"):
        parse_firmware_throttling(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_firmware_throttling(text)
    except ProbeError as error:
        assert error.hint is not None
