from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.pipeline.stages import (
    apply_recipe,
    describe_stages,
    override_pruning,
    plan_stages,
)
from deepseek_edge.quantization import QuantConfig
from deepseek_edge.recipe import CompileSection, PruneSection, Recipe, parse_recipe

FACTORY = "tests.pipeline.stripes:factory"


@pytest.fixture
def data(tmp_path: Path) -> str:
    return save(tmp_path / "train.npz", 0)


def save(path: Path, seed: int) -> str:
    random = np.random.default_rng(seed)
    x = random.standard_normal((20, 1, 12, 12)).astype(np.float32)
    np.savez(path, x=x, labels=np.arange(20) % 4)
    return str(path)


def request(tables: dict[str, Any], **changes: Any) -> CompileRequest:
    fields: dict[str, Any] = {"model": FACTORY, "precision": "int8"} | changes
    return CompileRequest(recipe=parse_recipe("r.toml", tables), **fields)


def test_a_request_takes_from_its_recipe_what_it_leaves_open() -> None:
    tables = {
        "compile": {"precision": "int8", "calib": "c", "samples": 9, "eval": "e", "max_drop": 0.0},
        "quantize": {"observer": "mse"},
    }
    found = apply_recipe(request(tables, precision=None))
    assert (found.precision, found.calibration, found.samples) == ("int8", "c", 9)
    assert (found.evaluation, found.max_drop_pp) == ("e", 0.0)
    assert found.quantization == QuantConfig(observer="mse")
    asked = {"precision": "auto", "calibration": "mine", "evaluation": "my", "max_drop_pp": 2.0}
    found = apply_recipe(request(tables, quantization=QuantConfig(), **asked))
    assert (found.precision, found.calibration) == ("auto", "mine")
    assert (found.evaluation, found.max_drop_pp) == ("my", 2.0)
    assert found.quantization == QuantConfig()
    assert apply_recipe(CompileRequest("m.onnx")) == CompileRequest("m.onnx")


def test_a_recipe_without_stages_has_none() -> None:
    asked = request({"compile": {"precision": "int8"}}, model="m.onnx")
    assert plan_stages(asked) is None
    assert list(describe_stages(None, asked)) == []


@pytest.mark.torch
def test_every_stage_is_told_before_it_runs(data: str) -> None:
    tables = {
        "data": {
            "train": data,
            "samples": 15,
            "validation": 5,
            "crop": 1,
            "flip": True,
            "erase": 0.1,
            "augment": "tests.pipeline.stripes:flip",
        },
        "train": {"epochs": 3, "batch_size": 4},
        "prune": {"ratio": 0.25},
        "sparsify": {"epochs": 4, "kind": "group_lasso"},
        "fine_tune": {"epochs": 2, "distill": True, "learning_rate": 0.01},
        "qat": {"epochs": 1, "when": "needed", "optimizer": "adamw", "learning_rate": 1e-4},
    }
    asked = request(tables)
    stages = plan_stages(asked)
    assert stages is not None and stages.augment is not None
    assert stages.fine_tune is not None and stages.fine_tune[1].distill
    torch = pytest.importorskip("torch")
    batch = torch.ones(3, 1, 12, 12)
    changed = stages.augment(batch, torch.Generator().manual_seed(1))
    assert changed.shape == batch.shape and not torch.equal(changed, batch)
    assert list(describe_stages(stages, asked)) == [
        f"  data {data}: 15 samples, 5 held out to choose on",
        "  trained: 3 epochs, batches of 4, sgd 0.1, seed 0",
        "  pruned: 25% of the parameters (layer), importance l1, channels in multiples of 8",
        "  while it fades (group_lasso): 4 epochs, batches of 128, sgd 0.1, seed 0",
        "  fine-tuned: 2 epochs, batches of 128, sgd 0.01, seed 0, taught by the model before",
        "  trained with quantization, if the gate is missed without: 1 epochs, batches of 128, "
        "adamw 0.0001, seed 0",
        "  no --dump DIR: nothing is kept, and an interrupted run starts over",
    ]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("tables", "changes", "message", "hint"),
    [
        ({}, {"model": "m.onnx"}, "only a torch module", "package.module:factory"),
        ({}, {"precision": "float32"}, r"\[qat\] is for INT8", "int8"),
        ({"data": {"train": "imagenet-foolbox-20"}}, {}, "is for evaluation", "[data]"),
        ({}, {"evaluation": "DATA"}, "share 20 samples", ""),
        ({"qat": {"epoch": 1}}, {}, r"\[qat\]: unknown key 'epoch'", "did you mean epochs?"),
        ({"qat": {"epochs": 1, "wen": "x"}}, {}, "unknown key 'wen'", "did you mean when?"),
        ({"qat": {"epochs": 1, "when": "x"}}, {}, "Invalid enum value 'x'", ""),
        ({"qat": {"epochs": 0}}, {}, "epochs is 0", ""),
        ({"train": {"batch_size": 8}}, {}, "missing required field `epochs`", ""),
        ({"quantize": {"observr": "mse"}}, {}, "unknown key 'observr'", "observer"),
        ({"quantize": {"observer": "best"}}, {}, "best", ""),
        (
            {"prune": {"ratio": "auto", "latency_budget_ms": 5}},
            {"targets": ("host", "arm64")},
            "holds for one target",
            "by itself",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused(
    data: str, tables: dict[str, Any], changes: dict[str, Any], message: str, hint: str
) -> None:
    tables = {"data": {"train": data}, "qat": {"epochs": 1}} | tables
    changes = {key: data if value == "DATA" else value for key, value in changes.items()}
    with pytest.raises(UsageError, match=message) as refused:
        plan_stages(apply_recipe(request(tables, **changes)))
    assert hint in (refused.value.hint or "")


def test_options_override_what_a_recipe_prunes() -> None:
    assert override_pruning(None, None, None) is None
    found = override_pruning(None, 0.4, None)
    assert found == Recipe(prune=PruneSection(0.4))
    recipe = Recipe("r", prune=PruneSection(0.2, round_to=4), compile=CompileSection("int8"))
    found = override_pruning(recipe, 0.4, None)
    assert found is not None
    assert (found.prune, found.compile) == (PruneSection(0.4, round_to=4), recipe.compile)
    found = override_pruning(recipe, None, 2.5)
    assert found is not None
    assert found.prune == PruneSection("auto", round_to=4, latency_budget_ms=2.5)
    with pytest.raises(UsageError, match="how much"):
        override_pruning(None, "auto", None)
    with pytest.raises(UsageError, match="a ratio and a latency budget"):
        override_pruning(None, 0.4, 2.5)
