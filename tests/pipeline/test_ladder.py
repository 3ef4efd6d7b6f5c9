from collections.abc import Callable
from dataclasses import replace

from deepseek_edge.artifacts import Accuracy, Rung
from deepseek_edge.pipeline.ladder import Way, describe_rung, next_way, tabulate
from deepseek_edge.quantization import QuantConfig


def climb(
    loss: Callable[[Way], float], first: Way | None = None, *, can_train: bool = False
) -> list[str]:
    """Names of all ways, in the order in which they are tried if none is good enough."""
    way: Way | None = first or Way(QuantConfig())
    tried: list[tuple[Way, float]] = []
    while way is not None:
        tried.append((way, loss(way)))
        way = next_way(tried, can_train=can_train)
    return [way.name for way, _ in tried]


def test_without_training_data_the_ladder_ends_with_a_quarter_in_float() -> None:
    assert climb(lambda way: 5.0) == [
        "minmax",
        "mse",
        "percentile",
        "minmax, not equalized",
        "minmax, up to 2% in float",
        "minmax, up to 5% in float",
        "minmax, up to 10% in float",
        "minmax, up to 25% in float",
    ]


def test_layers_stay_float_in_the_best_of_the_ways_before() -> None:
    losses = {"percentile": 3.0, "percentile, not equalized": 2.0}
    names = climb(lambda way: losses.get(way.name, 5.0))
    assert names[3:5] == [
        "percentile, not equalized",
        "percentile, not equalized, up to 2% in float",
    ]
    # Less is lost with layers in float, but they aren't what is chosen between.
    names = climb(lambda way: 1.0 if way.config.float_budget else losses.get(way.name, 5.0))
    assert names[-1] == "percentile, not equalized, up to 25% in float"


def test_training_comes_last_and_starts_from_the_best_way_all_in_int8() -> None:
    names = climb(lambda way: 3.0 if way.config.observer == "mse" else 5.0, can_train=True)
    assert names[7:] == [
        "mse, up to 25% in float",
        "mse, trained",
        "mse, trained, up to 2% in float",
        "mse, trained, up to 5% in float",
        "mse, trained, up to 10% in float",
        "mse, trained, up to 25% in float",
    ]


def test_training_that_was_asked_for_comes_first_and_is_not_repeated_with_other_ranges() -> None:
    first = Way(QuantConfig(observer="mse"), is_trained=True)
    names = climb(lambda way: 5.0, first, can_train=True)
    assert names == [
        "mse, trained",
        *(f"mse, trained, up to {share}% in float" for share in (2, 5, 10, 25)),
    ]


def test_what_was_asked_for_is_not_tried_twice_and_its_budget_only_grows() -> None:
    asked = QuantConfig(observer="percentile", equalization=False, float_budget=0.05)
    names = climb(lambda way: 5.0, Way(asked))
    assert names[0] == "percentile, not equalized, up to 5% in float"
    assert len(set(names)) == len(names)
    assert "percentile, not equalized, up to 10% in float" in names
    assert not any("up to 2%" in name for name in names)


ACCURACY = Accuracy("top1", 100, 91.0, 87.5, 3.5, 1.25)
RUNG = Rung("minmax", "photos", "host", ACCURACY, 1.0, (), False)


def test_a_rung_is_one_line() -> None:
    assert describe_rung(RUNG) == (
        "minmax: top1 87.50 %, +3.50 pp lost (+/- 1.25, 100 samples of photos, host), 100.0% of "
        "the work int8"
    )


def test_rungs_are_a_table() -> None:
    other = replace(RUNG, name="mse, trained", int8_macs_share=None, measured_on="onnxruntime")
    assert tabulate([RUNG, other]) == (
        "tried         lost   +/-    int8  measured on",
        "minmax        3.50  1.25  100.0%  host, photos",
        "mse, trained  3.50  1.25          onnxruntime, photos",
    )
