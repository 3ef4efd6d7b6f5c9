from deepseek_edge.device.probes.thermal import ThermalZone, hottest_c, read_thermal_zones
from tests.device.probes.recordings import DESKTOP, ORIN_NANO, RASPBERRY_PI_5, RecordedSystem


def test_a_zone_that_refuses_to_be_read_has_no_temperature() -> None:
    zones = read_thermal_zones(RecordedSystem(ORIN_NANO))
    assert zones == (
        ThermalZone("cpu-thermal", 52.062),
        ThermalZone("cv0-thermal", None),
        ThermalZone("tj-thermal", 53.281),
    )
    assert hottest_c(zones) == 53.281


def test_minus_256_degrees_are_no_temperature() -> None:
    path = "/sys/class/thermal/thermal_zone2/temp"
    zones = read_thermal_zones(RecordedSystem(ORIN_NANO | {path: "-256000\n"}))
    assert ThermalZone("cv0-thermal", None) in zones


def test_a_desktop_shows_its_processor_as_a_sensor_and_the_disk_does_not_count() -> None:
    zones = read_thermal_zones(RecordedSystem(DESKTOP))
    assert zones == (ThermalZone("k10temp", 45.25),)


def test_a_raspberry_pi_has_one_zone() -> None:
    assert hottest_c(read_thermal_zones(RecordedSystem(RASPBERRY_PI_5))) == 61.7


def test_constants_and_radios_are_not_the_chip() -> None:
    zones = [ThermalZone("PMIC-Die", 100.0), ThermalZone("iwlwifi_1", 80.0), ThermalZone("x", 5.0)]
    assert hottest_c(zones) == 5.0
    assert hottest_c(zones[:2]) is None
