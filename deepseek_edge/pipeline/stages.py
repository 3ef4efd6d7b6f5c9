"""What a recipe comes to: its options, its stages, and what is refused before they run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from deepseek_edge.datasets import Dataset, check_disjoint, load_dataset
from deepseek_edge.errors import UsageError
from deepseek_edge.export.torch_module import require_torch
from deepseek_edge.importing import import_function, is_function_reference
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.quantization import QuantConfig
from deepseek_edge.recipe import DataSection, PruneSection, Recipe
from deepseek_edge.strict_toml import check_keys, convert
from deepseek_edge.training import (
    TrainConfig,
    compose,
    random_crop,
    random_erase,
    random_flip,
)

if TYPE_CHECKING:
    from deepseek_edge.training.config import Augment

_T = TypeVar("_T")


@dataclass(frozen=True)
class Nothing:
    """What ``[train]`` says beside the fields of ``TrainConfig``."""


@dataclass(frozen=True)
class FineTuning:
    """What ``[fine_tune]`` says beside the fields of ``TrainConfig``.

    Attributes:
        distill: learn from the answers of the model before it was pruned.
    """

    distill: bool = False


@dataclass(frozen=True)
class Sparsifying:
    """What ``[sparsify]`` says beside the fields of ``TrainConfig``; as ``SparsityTrainer`` has it.

    Attributes:
        distill: learn from the answers of the model before it was pruned.
    """

    kind: Literal["gradual", "group_lasso"] = "gradual"
    penalty: float = 1e-4
    begin: float = 0.1
    end: float = 0.6
    updates: int = 50
    distill: bool = False


@dataclass(frozen=True)
class Qat:
    """What ``[qat]`` says beside the fields of ``TrainConfig``.

    Attributes:
        when: "needed": only if the gate is missed without.
        observe_epochs, compiled: as ``fine_tune`` of ``quantization.qat`` takes them.
    """

    when: Literal["always", "needed"] = "always"
    observe_epochs: float = 0.0
    compiled: bool = False


@dataclass(frozen=True)
class Stages:
    """The stages of a recipe, each checked; None where there is none.

    Attributes:
        dataset: that is trained on, as ``data`` says.
    """

    dataset: Dataset | None
    data: DataSection | None
    augment: "Augment | None"
    train: tuple[TrainConfig, Nothing] | None
    prune: PruneSection | None
    sparsify: tuple[TrainConfig, Sparsifying] | None
    fine_tune: tuple[TrainConfig, FineTuning] | None
    qat: tuple[TrainConfig, Qat] | None


def apply_recipe(request: CompileRequest) -> CompileRequest:
    """Take what the request leaves open from its recipe.

    Raises:
        UsageError: the recipe's ``[quantize]`` isn't understood.
    """
    recipe = request.recipe
    if recipe is None:
        return request
    options, quantization = recipe.compile, request.quantization
    if quantization is None and recipe.quantize is not None:
        quantization = convert(recipe.quantize, QuantConfig, f"{recipe.name} [quantize]")
    return replace(
        request,
        precision=request.precision or options.precision,
        calibration=request.calibration or options.calib,
        samples=request.samples or options.samples,
        evaluation=request.evaluation or options.eval,
        metric=request.metric or options.metric,
        max_drop_pp=options.max_drop if request.max_drop_pp is None else request.max_drop_pp,
        quantization=quantization,
    )


def plan_stages(request: CompileRequest) -> Stages | None:
    """Resolve the stages of a request's recipe, or refuse them.

    Args:
        request: to which its recipe was applied.

    Returns:
        None without a recipe, or if it leaves the model as it is.

    Raises:
        UsageError: a table isn't understood, the model is no module, or the data can't serve.
        MissingToolError: the extra ``torch`` is not installed.
    """
    recipe = request.recipe
    if recipe is None or (recipe.data is None and recipe.prune is None):
        return None
    if not isinstance(request.model, str) or not is_function_reference(request.model):
        raise UsageError(
            "only a torch module can be pruned or trained",
            hint="give the model as package.module:factory",
        )
    require_torch()
    if recipe.qat is not None and request.precision not in ("int8", "auto"):
        raise UsageError(f"{recipe.name}: [qat] is for INT8", hint='precision = "int8" or "auto"')
    if recipe.prune is not None and recipe.prune.ratio == "auto" and len(request.targets) > 1:
        raise UsageError(
            "a latency budget holds for one target", hint="compile for each target by itself"
        )
    data = recipe.data
    dataset = None if data is None else _training_set(data.train, request)
    return Stages(
        dataset=dataset,
        data=data,
        augment=None if data is None else _augmentation(data, dataset),
        train=_training(recipe, "train", Nothing),
        prune=recipe.prune,
        sparsify=_training(recipe, "sparsify", Sparsifying),
        fine_tune=_training(recipe, "fine_tune", FineTuning),
        qat=_training(recipe, "qat", Qat),
    )


def _training(recipe: Recipe, section: str, own: type[_T]) -> tuple[TrainConfig, _T] | None:
    """A table's fields of ``TrainConfig``, and its own; None without the table."""
    where, table = f"{recipe.name} [{section}]", getattr(recipe, section)
    if table is None:
        return None
    own_keys = [field.name for field in fields(own)]  # type: ignore[arg-type]
    check_keys(table, [*own_keys, *(field.name for field in fields(TrainConfig))], where)
    theirs = {key: value for key, value in table.items() if key in own_keys}
    config = {key: value for key, value in table.items() if key not in own_keys}
    return convert(config, TrainConfig, where), convert(theirs, own, where)


def _training_set(source: str, request: CompileRequest) -> Dataset:
    dataset = load_dataset(source, preprocess=request.preprocess)
    if dataset.split == "evaluation":
        raise UsageError(
            f"{dataset.id} is for evaluation: a model must not be trained on it",
            hint="give another data set to [data] train",
        )
    if request.evaluation is not None:
        check_disjoint(dataset, load_dataset(request.evaluation))
    return dataset


def _augmentation(data: DataSection, dataset: Dataset | None) -> "Augment | None":
    """What changes each batch, if anything does; what images are moved over is black."""
    table = None if dataset is None else dataset.preprocess
    is_grey = table is not None and table["color"] == "gray"
    # Of coloured images the mean: one number is filled in for all channels.
    black = -table["mean"][0] / table["std"][0] if table is not None and is_grey else 0.0
    parts = [random_crop(data.crop, fill=black)] if data.crop else []
    parts += [random_flip()] if data.flip else []
    parts += [random_erase(data.erase)] if data.erase else []
    parts += [import_function(data.augment)] if data.augment is not None else []
    return compose(*parts) if parts else None


def describe_stages(stages: Stages | None, request: CompileRequest) -> Iterator[str]:
    """Say in lines what will be done to the module, with every default resolved."""
    if stages is None:
        return
    if stages.dataset is not None and stages.data is not None:
        data, whole = stages.data, len(stages.dataset)
        count = whole if data.samples is None else min(data.samples, whole)
        held = f", {data.validation} held out to choose on" if data.validation else ""
        yield f"  data {stages.dataset.id}: {count} samples{held}"
    if stages.train is not None:
        yield f"  trained: {_describe(stages.train[0])}"
    if stages.prune is not None:
        yield f"  {_describe_pruning(stages.prune)}"
    if stages.sparsify is not None:
        yield f"  while it fades ({stages.sparsify[1].kind}): {_describe_taught(stages.sparsify)}"
    if stages.fine_tune is not None:
        yield f"  fine-tuned: {_describe_taught(stages.fine_tune)}"
    if stages.qat is not None:
        config, qat = stages.qat
        when = "if the gate is missed without" if qat.when == "needed" else "in any case"
        yield f"  trained with quantization, {when}: {_describe(config)}"
    if request.dump is None and stages.dataset is not None:
        yield "  no --dump DIR: nothing is kept, and an interrupted run starts over"


def _describe(config: TrainConfig) -> str:
    return (
        f"{config.epochs} epochs, batches of {config.batch_size}, {config.optimizer} "
        f"{config.learning_rate:g}, seed {config.seed}"
    )


def _describe_taught(stage: tuple[TrainConfig, FineTuning | Sparsifying]) -> str:
    config, own = stage
    return _describe(config) + (", taught by the model before" if own.distill else "")


def _describe_pruning(prune: PruneSection) -> str:
    how = f"importance {prune.importance}, channels in multiples of {prune.round_to}"
    if prune.ratio == "auto":
        return f"pruned until a call takes {prune.latency_budget_ms:g} ms, {how}"
    rounds = "" if prune.iterations == 1 else f", {prune.iterations} rounds"
    return f"pruned: {prune.ratio:.0%} of the {prune.by} ({prune.scope}), {how}{rounds}"


def override_pruning(
    recipe: Recipe | None, ratio: float | Literal["auto"] | None, budget_ms: float | None
) -> Recipe | None:
    """A recipe with another ratio or latency budget; one that only prunes if there is none.

    Raises:
        UsageError: a ratio outside 0 to 1, or a budget with a ratio.
    """
    if ratio is None and budget_ms is None:
        return recipe
    recipe = recipe or Recipe()
    kept = {} if recipe.prune is None else asdict(recipe.prune)
    changes = {"ratio": "auto" if ratio is None else ratio, "latency_budget_ms": budget_ms}
    return replace(recipe, prune=convert({**kept, **changes}, PruneSection, "--prune"))
