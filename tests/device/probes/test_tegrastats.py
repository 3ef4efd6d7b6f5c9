import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.tegrastats import (
    CpuLoad,
    EngineLoad,
    Rail,
    parse_tegrastats,
    parse_tegrastats_log,
)
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import (
    NANO_32,
    ORIN_35,
    ORIN_36_ARRAYS,
    ORIN_39,
    ORIN_NANO_36,
    TEGRASTATS,
    THOR_39,
    TX2_32,
    XAVIER_32,
)

MB = 1 << 20


def test_a_nano_of_l4t_32_tells_memory_loads_and_rails_without_units() -> None:
    found = parse_tegrastats(NANO_32)
    assert found.time is None
    assert (found.ram_used_bytes, found.ram_total_bytes) == (410 * MB, 3964 * MB)
    assert found.largest_free_block_bytes == 4 * MB
    assert (found.swap_used_bytes, found.swap_total_bytes) == (3 * MB, 1982 * MB)
    assert found.cpus[2] == CpuLoad(0.07, 204_000_000)
    assert found.memory == EngineLoad(0.03, (204_000_000,))
    assert found.gpu == EngineLoad(0.05, (76_000_000,))
    assert found.engines == {"APE": EngineLoad(None, (25_000_000,))}
    assert found.rails[0] == Rail("POM_5V_IN", 933, 950, None)


def test_a_core_that_is_off_has_no_load_and_a_user_sees_no_gpu_clock() -> None:
    found = parse_tegrastats(TX2_32)
    assert found.cpus[:2] == (CpuLoad(0.03, 345_000_000), None)
    assert found.gpu == EngineLoad(0.0, ())
    assert found.rails == ()


def test_a_negative_temperature_is_one() -> None:
    assert parse_tegrastats(TX2_32).temperatures_c["BCPU"] == -4.5


def test_a_xavier_has_rails_that_are_called_like_units() -> None:
    found = parse_tegrastats(XAVIER_32)
    assert [rail.name for rail in found.rails] == ["GPU", "CPU", "SOC", "CV"]
    assert found.gpu == EngineLoad(0.09, (1_377_000_000,))


def test_minus_256_degrees_are_a_sensor_without_power() -> None:
    found = parse_tegrastats(ORIN_35)
    assert found.temperatures_c["GPU"] is None
    assert found.hottest_c == 41.656


def test_the_constant_of_the_pmic_is_never_the_hottest() -> None:
    assert parse_tegrastats(NANO_32).temperatures_c["PMIC"] == 100
    assert parse_tegrastats(NANO_32).hottest_c == 27.5


def test_an_orin_of_l4t_35_has_a_time_two_gpu_parts_and_milliwatts() -> None:
    found = parse_tegrastats(ORIN_35)
    assert found.time == "01-03-2023 16:07:54"
    assert found.engines["GR3D2_FREQ"] == EngineLoad(0.4, (612_000_000,))
    assert found.rails[0] == Rail("VDD_GPU_SOC", 2390, 2391, None)
    assert [rail.name for rail in found.rails].count("NC") == 2


def test_l4t_36_prints_an_array_of_gpu_clocks_and_units_that_are_off() -> None:
    nano, agx = parse_tegrastats(ORIN_NANO_36), parse_tegrastats(ORIN_36_ARRAYS)
    assert nano.gpu == EngineLoad(0.26, (306_000_000,))
    assert agx.gpu == EngineLoad(0.0, (0, 0))
    assert nano.rails[0] == Rail("VDD_IN", 4940, 4941, None)
    assert "NVDEC" not in agx.engines
    assert agx.engines["VIC"] == EngineLoad(0.36, (115_000_000,))


def test_l4t_39_prints_peaks_too() -> None:
    found = parse_tegrastats(ORIN_39)
    assert found.temperatures_c == {"cpu": 52.968, "gpu": 47.625}
    assert found.rails == (Rail("VDD_GPU_SOC", 5139, 5000, 6100),)
    assert found.swap_used_bytes is None


def test_a_thor_prints_clocks_without_loads() -> None:
    found = parse_tegrastats(THOR_39)
    assert found.cpus == (CpuLoad(0.0, 2_601_000_000), CpuLoad(0.05, 2_601_000_000), None)
    assert found.memory == EngineLoad(None, (4_266_000_000,))
    assert found.gpu == EngineLoad(None, (1_574_000_000, 1_574_000_000))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "0 fields RAM"),
        ("bash: tegrastats: command not found", "'bash: tegrastats: comman'"),
        ("RAM 1/2MB (lfb 1x4MB)", "0 fields CPU"),
        (f"{TX2_32} {TX2_32}", "2 fields RAM"),
        (TX2_32.replace("3%@345", "bad"), "'bad' is no core's load"),
        (TX2_32.replace("3%@345", "101%@345"), "a load of 101 %"),
        (TX2_32.replace("GR3D_FREQ 0%", "GR3D_FREQ"), "'GR3D_FREQ PLL@"),
        (THOR_39.replace("1574,off", "1574,on"), "'on' is no clock of GR3D_FREQ"),
        (ORIN_NANO_36.replace("4940mW/4941mW", "4940mW/4941"), "'VDD_IN 4940mW/4941 VDD_C'"),
        (ORIN_NANO_36 + " NEW_THING?", "'NEW_THING?' is no field"),
        ("RAM 1/2MB (lfb 1x4MB) CPU [1%@" + "9" * 5000 + "]", "is no field"),
    ],
)
def test_what_is_no_line_of_it_is_refused_with_the_place(line: str, reason: str) -> None:
    with pytest.raises(ProbeError) as caught:
        parse_tegrastats(line)
    assert reason in str(caught.value)


@pytest.mark.parametrize("line", TEGRASTATS)
def test_a_line_cut_off_anywhere_is_read_or_refused_and_a_log_always_refuses_it(line: str) -> None:
    refused = 0
    for length in range(len(line)):
        try:
            parse_tegrastats(line[:length])
        except ProbeError:
            refused += 1
        log = parse_tegrastats_log(f"{line}\n{line[:length]}")
        assert len(log.samples) == 1
        assert len(log.refused) == (1 if length else 0)
    assert refused > len(line) / 2  # what is cut at the end of a field may still be a line


def test_a_log_keeps_the_good_lines_and_says_which_are_not() -> None:
    log = parse_tegrastats_log(f"{NANO_32}\nSegmentation fault\n\n{TX2_32}\n")
    assert log.samples == (parse_tegrastats(NANO_32), parse_tegrastats(TX2_32))
    ((number, reason),) = log.refused
    assert (number, "Segmentation" in reason) == (2, True)


WORDS = st.sampled_from(" ".join(TEGRASTATS).split())


@given(st.text() | st.lists(WORDS).map(" ".join) | st.text(alphabet="RAMCPU[]%@,/0123456789 mWC"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_tegrastats(text)
    except ProbeError as error:
        assert error.hint is not None
    parse_tegrastats_log(text)
