"""Recipes: the whole way from a module to a gated artifact in one file (``calibration/recipes``).

A recipe says what, not where to: targets and files stay options of the command.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from deepseek_edge.errors import UsageError
from deepseek_edge.resources import resource_dir
from deepseek_edge.strict_toml import check_keys, convert, read_toml

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Ratio = Annotated[float, msgspec.Meta(gt=0, lt=1)]


@dataclass(frozen=True)
class DataSection:
    """``[data]``: what is trained on.

    Attributes:
        train: a data set's id or path, with labels.
        samples: the first so many of it; None: all.
        validation: so many of those are held out; ways to quantize are chosen on them.
        crop: each image is moved by up to so many pixels.
        flip: half of the images are mirrored.
        erase: up to this share of half of the images is hidden.
        augment: "package.module:function" that takes a batch on its device and a generator, and
            changes it last.
    """

    train: str
    samples: _Count | None = None
    validation: Annotated[int, msgspec.Meta(ge=0)] = 0
    crop: Annotated[int, msgspec.Meta(ge=0)] = 0
    flip: bool = False
    erase: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    augment: str | None = None


@dataclass(frozen=True)
class PruneSection:
    """``[prune]``: which channels go, as ``ChannelPruner`` takes it.

    Attributes:
        ratio: share that is removed; "auto": as much as the latency budget needs.
        latency_budget_ms: of one call on the target, for "auto".
        iterations: rounds, with ``[fine_tune]`` between them.
    """

    ratio: _Ratio | Literal["auto"] = "auto"
    importance: Literal["l1", "l2", "taylor", "bn_scale"] = "l1"
    by: Literal["parameters", "macs"] = "parameters"
    scope: Literal["global", "layer"] = "layer"
    round_to: _Count = 8
    excluded: tuple[str, ...] = ()
    iterations: _Count = 1
    latency_budget_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None


@dataclass(frozen=True)
class CompileSection:
    """``[compile]``: options of ``compile``; those of the command line win."""

    precision: str | None = None
    calib: str | None = None
    samples: _Count | None = None
    eval: str | None = None
    metric: str | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What is done to a module before and while it is compiled, in this order.

    Attributes:
        train: fields of ``TrainConfig``, to train the module that the factory gives.
        sparsify: the same, to train while the channels that ``prune`` asks for fade, and options
            of ``SparsityTrainer``; "distill": learn from the model before.
        fine_tune: the same, after pruning, and "distill".
        quantize: fields of ``QuantConfig``.
        qat: fields of ``TrainConfig``, "observe_epochs", and "when": "always" or "needed".
    """

    name: str = "options"
    data: DataSection | None = None
    train: Mapping[str, Any] | None = None
    prune: PruneSection | None = None
    sparsify: Mapping[str, Any] | None = None
    fine_tune: Mapping[str, Any] | None = None
    quantize: Mapping[str, Any] | None = None
    qat: Mapping[str, Any] | None = None
    compile: CompileSection = CompileSection()

    def __post_init__(self) -> None:
        """Check what sections need of each other.

        Raises:
            UsageError: training without data, or what contradicts itself.
        """
        for name in ("train", "sparsify", "fine_tune", "qat"):
            if getattr(self, name) is not None and self.data is None:
                raise UsageError(
                    f"{self.name}: [{name}] needs data to train on", hint="add [data] train = ..."
                )
        for name in ("sparsify", "fine_tune"):
            if getattr(self, name) is not None and self.prune is None:
                raise UsageError(
                    f"{self.name}: [{name}] without [prune]",
                    hint="[train] trains the model itself",
                )
        if self.prune is not None:
            self._check_prune(self.prune)

    def _check_prune(self, prune: PruneSection) -> None:
        if prune.ratio == "auto" and (prune.iterations > 1 or prune.importance == "taylor"):
            raise UsageError(
                f"{self.name}: auto with iterations or taylor importance",
                hint="a latency budget is met in one round, by the weights",
            )
        if prune.ratio == "auto" and prune.latency_budget_ms is None:
            raise UsageError(
                f"{self.name}: how much is to be pruned?",
                hint="give a ratio, e.g. 0.3, or a latency budget in ms with auto",
            )
        if prune.ratio != "auto" and prune.latency_budget_ms is not None:
            raise UsageError(
                f"{self.name}: a ratio and a latency budget", hint="a budget goes with auto"
            )
        if self.sparsify is not None and (
            prune.ratio == "auto" or prune.iterations > 1 or prune.importance != "l1"
        ):
            raise UsageError(
                f"{self.name}: [sparsify] with auto, iterations or another importance than l1",
                hint="give [prune] a ratio alone, or leave [sparsify] out",
            )
        if prune.importance == "taylor" and self.data is None:
            raise UsageError(
                f"{self.name}: taylor importance needs data", hint="add [data], or choose l1"
            )


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with this package, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: of ``calibration/recipes``, or a file.

    Raises:
        UsageError: there is none, or something in it isn't understood, and what comes nearest.
    """
    path = Path(name_or_path)
    if not path.is_file():
        known = list_recipes()
        if name_or_path not in known:
            raise UsageError(
                f"there is no recipe {name_or_path}", hint=f"a file, or one of {', '.join(known)}"
            )
        path = _folder() / f"{name_or_path}.toml"
    return parse_recipe(path.name, read_toml(path))


def parse_recipe(name: str, tables: Mapping[str, Any]) -> Recipe:
    """A recipe from its tables.

    The tables of training and quantization are checked when they are planned, by the types that
    they are for.

    Args:
        name: what to call it in errors.
        tables: of the file.

    Raises:
        UsageError: something isn't understood.
    """
    check_keys(tables, [one.name for one in fields(Recipe) if one.name != "name"], name)
    if wrong := [key for key, table in tables.items() if not isinstance(table, Mapping)]:
        raise UsageError(f"{name}: {wrong[0]} is no table", hint=f"write [{wrong[0]}]")
    typed = {"data": DataSection, "prune": PruneSection, "compile": CompileSection}
    sections = {
        key: convert(table, typed[key], f"{name} [{key}]") if key in typed else table
        for key, table in tables.items()
    }
    return Recipe(name, **sections)


def _folder() -> Path:
    return resource_dir("calibration") / "recipes"
