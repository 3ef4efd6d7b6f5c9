import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.release import (
    Software,
    describe_software,
    parse_l4t,
    parse_packages,
    read_software,
)
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import L4T_36, ORIN_NANO, PACKAGES_36, RecordedSystem


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (L4T_36, "36.4.3"),
        ("# R32 (release), REVISION: 7.1, GCID: 2, BOARD: t186ref, EABI: aarch64\n", "32.7.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 3\n", "35.4.1"),
        ("# R38 (release), REVISION: 2.2, GCID: 4\n", "38.2.2"),
        ("# R39 (release), REVISION: 2.1", "39.2.1"),
    ],
)
def test_the_release_is_revision_behind_number(text: str, version: str) -> None:
    assert parse_l4t(text) == version


def test_only_installed_packages_count() -> None:
    assert parse_packages(PACKAGES_36) == {
        "cuda-cudart-12-6": "12.6.68-1",
        "libnvinfer10": "10.3.0.30-1+cuda12.5",
        "nvidia-jetpack": "6.2+b77",
        "nvidia-l4t-core": "36.4.3-20250107174145",
    }


def test_a_board_with_jetpack_tells_all_versions() -> None:
    system = RecordedSystem(ORIN_NANO, {"dpkg-query": PACKAGES_36})
    assert read_software(system) == Software("36.4.3", "6.2", "12.6.68", "10.3.0.30")


@pytest.mark.parametrize(("l4t", "series"), [("32.7.1", "4"), ("36.4.7", "6"), ("39.2.1", "7")])
def test_without_the_meta_package_the_series_follows_from_l4t(l4t: str, series: str) -> None:
    assert describe_software(l4t, {}) == Software(l4t, series, None, None)


def test_a_container_tells_l4t_by_its_packages() -> None:
    assert describe_software(None, {"nvidia-l4t-core": "35.4.1-2023"}).l4t == "35.4.1"


def test_the_newest_of_several_versions_is_the_one() -> None:
    packages = {"libnvinfer8": "8.5.2-1", "libnvinfer10": "10.3.0-1", "libnvinfer-bin": "99.0"}
    assert describe_software(None, packages).tensorrt == "10.3.0"


def test_a_machine_that_says_nothing_is_no_error() -> None:
    assert read_software(RecordedSystem({})) == Software(None, None, None, None)


@pytest.mark.parametrize("text", ["", "R36", "# R (release), REVISION: 1", "# R36 (release)"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(ProbeError, match="nv_tegra_release"):
        parse_l4t(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_l4t, lambda value: describe_software(None, parse_packages(value))):
        try:
            parse(text)
        except ProbeError as error:
            assert error.hint is not None


@given(
    st.dictionaries(st.sampled_from(["nvidia-jetpack", "libnvinfer8", "cuda-cudart-1"]), st.text())
)
def test_any_version_text_is_understood_or_unknown(packages: dict[str, str]) -> None:
    describe_software(None, packages)
