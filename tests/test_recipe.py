from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.recipe import (
    CompileSection,
    DataSection,
    PruneSection,
    Recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
)

TEXT = """
[data]
train = "photos"
validation = 500

[prune]
ratio = 0.3
importance = "l2"
excluded = ["classifier"]

[fine_tune]
epochs = 3
distill = true

[qat]
epochs = 1

[compile]
precision = "int8"
eval = "others"
max_drop = 1
"""


def test_a_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert load_recipe(str(path)) == Recipe(
        name="mine.toml",
        data=DataSection("photos", validation=500),
        prune=PruneSection(0.3, importance="l2", excluded=("classifier",)),
        fine_tune={"epochs": 3, "distill": True},
        qat={"epochs": 1},
        compile=CompileSection(precision="int8", eval="others", max_drop=1.0),
    )


def test_recipes_of_this_package_are_known_by_name() -> None:
    assert len(list_recipes()) >= 4
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.name == f"{name}.toml"
        assert recipe.compile.max_drop is not None, "a recipe promises something"
    with pytest.raises(UsageError, match="no recipe fashion") as refused:
        load_recipe("fashion")
    assert list_recipes()[0] in str(refused.value.hint)


DATA: dict[str, Any] = {"data": {"train": "d"}}


@pytest.mark.parametrize(
    ("tables", "message", "hint"),
    [
        ({"prun": {}}, "unknown key 'prun'", "did you mean prune?"),
        ({"name": {}}, "unknown key 'name'", "keys are data"),
        ({"data": {"trian": "d"}}, r"\[data\]: unknown key 'trian'", "did you mean train?"),
        ({"compile": {"precison": 1}}, r"\[compile\]: unknown key", "did you mean precision?"),
        ({"compile": 3}, "compile is no table", "[compile]"),
        ({"data": {}}, r"\[data\]: .*missing required field `train`", ""),
        ({"prune": {"ratio": 1.5}}, r"\[prune\]: Expected", ""),
        ({"prune": {"ratio": "some"}}, r"\[prune\]: ", ""),
        ({"prune": {"ratio": 0.5, "importance": "l3"}}, "Invalid enum value 'l3'", ""),
        ({"prune": {}}, "how much", "0.3"),
        ({"prune": {"ratio": 0.3, "latency_budget_ms": 2}}, "a ratio and a latency budget", "auto"),
        ({"prune": {"latency_budget_ms": 2, "iterations": 3}}, "auto with iterations", "one round"),
        ({"prune": {"ratio": 0.3, "importance": "taylor"}}, "taylor importance needs data", "l1"),
        ({"train": {"epochs": 1}}, r"\[train\] needs data", "[data]"),
        ({"qat": {"epochs": 1}}, r"\[qat\] needs data", "[data]"),
        (DATA | {"sparsify": {"epochs": 1}}, r"\[sparsify\] without \[prune\]", "[train]"),
        (
            DATA | {"sparsify": {}, "prune": {"ratio": 0.5, "iterations": 2}},
            r"\[sparsify\] with auto, iterations",
            "a ratio alone",
        ),
        (DATA | {"fine_tune": {"epochs": 1}}, r"\[fine_tune\] without \[prune\]", "[train]"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_nearest(
    tables: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse_recipe("r.toml", tables)
    assert str(refused.value).startswith("r.toml")
    assert hint in (refused.value.hint or "")


def test_what_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[data\n")
    with pytest.raises(UsageError, match=r"r\.toml is not TOML: .*line 1"):
        load_recipe(str(path))
