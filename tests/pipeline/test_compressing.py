import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.cli.main import main
from deepseek_edge.errors import DeepSeekEdgeError, InputError
from deepseek_edge.pipeline import CompileRequest, CompileResult, compile_model
from deepseek_edge.pipeline.compressing import compress
from deepseek_edge.pipeline.stages import apply_recipe, override_pruning, plan_stages
from deepseek_edge.pipeline.workshop import open_workshop
from deepseek_edge.recipe import parse_recipe
from tests.pipeline.stripes import save_stripes

pytestmark = pytest.mark.torch

TRAINING = {"epochs": 6, "batch_size": 50, "learning_rate": 0.1}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and wait for it on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Data to train on, and to judge by."""
    folder = tmp_path_factory.mktemp("stripes")
    return save_stripes(folder / "train.npz", 700, 0), save_stripes(folder / "test.npz", 100, 1)


def request(sources: tuple[str, str], output: Path, **changes: Any) -> CompileRequest:
    tables: dict[str, Any] = {
        "data": {"train": sources[0], "validation": 100},
        "train": TRAINING,
        "prune": {"ratio": 0.3},
        "fine_tune": TRAINING | {"epochs": 2, "learning_rate": 0.02, "distill": True},
        "qat": {"epochs": 1, "batch_size": 50, "optimizer": "adamw", "learning_rate": 1e-4},
        "compile": {"precision": "int8", "samples": 16, "eval": sources[1], "max_drop": 5.0},
    }
    tables |= changes.pop("tables", {})
    recipe = parse_recipe("r.toml", {key: table for key, table in tables.items() if table})
    return CompileRequest(
        "tests.pipeline.stripes:factory", recipe=recipe, output=output / "out.dse", **changes
    )


def run(asked: CompileRequest) -> tuple[CompileResult, list[str], set[str]]:
    said: list[str] = []
    stages: set[str] = set()
    result = compile_model(asked, narrate=said.append, progress=lambda stage, *_: stages.add(stage))
    return result, said, stages


Ran = tuple[CompileResult, list[str], set[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def ran(sources: tuple[str, str], folder: Path) -> Ran:
    """The whole way, once."""
    return run(request(sources, folder, dump=folder))


@pytest.mark.tvm
def test_the_whole_way_is_one_call(sources: tuple[str, str], ran: Ran) -> None:
    result, said, stages = ran
    (report,) = result.reports
    assert report.pruned is not None
    removed = 1 - report.pruned.parameters_after / report.pruned.parameters_before
    assert 0.3 <= removed < 0.7
    # The first way is the one that was trained; it is chosen on what was held out.
    measured = [(rung.name, rung.measured_on, rung.dataset) for rung in report.ladder]
    assert measured == [
        ("minmax, trained", "onnxruntime", f"{sources[0]} (held out)"),
        ("minmax, trained", "host", sources[1]),
    ]
    assert report.accuracy is not None
    assert report.accuracy.float > 90, "the float model is the one before pruning"
    assert report.accuracy.drop_pp <= 5.0
    assert report.programs[0].program.layers.int8 == 3
    assert {"train", "fine_tune", "qat"} <= stages
    assert {"train", "prune", "fine-tune", "export", "quantize"} <= set(report.time_s)
    assert any(line.startswith("pruned: ") for line in said)


@pytest.mark.tvm
def test_what_was_kept_is_not_done_again(
    sources: tuple[str, str], folder: Path, ran: Ran, tmp_path: Path
) -> None:
    again, said, _ = run(request(sources, tmp_path, dump=folder))
    assert "train: 6 epochs, from its checkpoint" in said
    assert "fine_tune: 2 epochs, from its checkpoint" in said
    first, second = (result.reports[0].bundle.read_bytes() for result in (ran[0], again))
    assert first == second


def test_an_interrupted_training_goes_on_where_it_was(
    sources: tuple[str, str], tmp_path: Path
) -> None:
    asked = replace(
        request(sources, tmp_path, tables={"prune": {}, "fine_tune": {}, "qat": {}}),
        precision="float32",
    )
    stages = plan_stages(asked)
    assert stages is not None

    class Killed(BaseException):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == total // 2 + 5:
            raise Killed

    with pytest.raises(Killed):
        compress(asked, stages, open_workshop(asked, tmp_path, lambda _: None, kill))
    said: list[str] = []
    steps: list[int] = []
    shop = open_workshop(asked, tmp_path, said.append, lambda _, done, __: steps.append(done))
    resumed = compress(asked, stages, shop)
    assert said[0] == "train: 6 epochs, from its checkpoint"
    assert min(steps) > 36, "three of six epochs of twelve steps were done"
    other = tmp_path / "other"
    other.mkdir()
    whole = compress(asked, stages, open_workshop(asked, other, lambda _: None, lambda *_: None))
    assert resumed.model == whole.model


def test_channels_fade_while_a_copy_is_trained(sources: tuple[str, str], tmp_path: Path) -> None:
    fading = {"sparsify": TRAINING | {"updates": 5}, "fine_tune": {}, "qat": {}}
    asked = request(sources, tmp_path, tables=fading)
    stages = plan_stages(asked)
    assert stages is not None
    said: list[str] = []
    stopped: set[str] = set()
    shop = open_workshop(asked, tmp_path, said.append, lambda stage, *_: stopped.add(stage))
    given = compress(asked, stages, shop)
    assert stopped == {"train", "sparsify"}
    assert given.pruned is not None
    assert given.pruned.parameters_after <= 0.7 * given.pruned.parameters_before
    assert (given.fine_tune, given.trains_first) == (None, False)
    left = sum(int(np.prod(tensor.dims)) for tensor in given.model.graph.initializer)
    # Batch normalizations are folded, so fewer numbers are left than parameters were.
    assert left < given.pruned.parameters_after
    assert (tmp_path / f"sparsify-{shop.keys['sparsify']}.safetensors").exists()


def test_a_latency_budget_of_the_target_decides_how_much_goes(tmp_path: Path) -> None:
    predicted: list[float] = []
    for share in (None, 0.7):
        budget_ms = 1e3 if share is None else share * predicted[0]
        recipe = override_pruning(None, None, budget_ms)
        asked = CompileRequest(
            "tests.pipeline.stripes:factory", targets=("raspberry-pi-4",), recipe=recipe
        )
        stages = plan_stages(asked)
        assert stages is not None
        said: list[str] = []
        shop = open_workshop(asked, tmp_path, said.append, lambda *_: None)
        pruned = compress(asked, stages, shop).pruned
        assert pruned is not None and pruned.predicted_ms_after is not None
        assert pruned.measured_ms_after is None, "there is no such board here"
        assert pruned.predicted_ms_after <= budget_ms
        predicted.append(pruned.predicted_ms_after)
        is_smaller = pruned.parameters_after < pruned.parameters_before
        assert is_smaller == (share is not None)
        assert " ms in float32" in said[-1]


def test_another_recipe_does_not_take_up_a_checkpoint(
    sources: tuple[str, str], tmp_path: Path
) -> None:
    first = request(sources, tmp_path)
    second = request(sources, tmp_path, tables={"fine_tune": TRAINING})
    keys = [
        open_workshop(one, tmp_path, lambda _: None, lambda *_: None).keys
        for one in (first, second)
    ]
    assert keys[0]["train"] == keys[1]["train"]
    assert keys[0]["fine_tune"] != keys[1]["fine_tune"]


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        ("two_inputs", {}, "has arrays for input"),
        ("two_inputs", {"evaluation": None}, "has arrays for input"),
        ("larger", {}, r"takes \[1, 1, 20, 20\]"),
        ("dynamic", {}, "torch can't trace"),
    ],
)
def test_what_can_not_be_compiled_is_refused_before_it_is_trained(
    sources: tuple[str, str],
    tmp_path: Path,
    factory: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    asked = replace(apply_recipe(request(sources, tmp_path)), model=f"{__name__}:{factory}")
    asked = replace(asked, **changes)
    stages = plan_stages(asked)
    assert stages is not None
    started: list[str] = []
    shop = open_workshop(asked, tmp_path, started.append, lambda *_: None)
    with pytest.raises(DeepSeekEdgeError, match=message):
        compress(asked, stages, shop)
    assert started == []


def test_a_class_that_is_never_seen_is_refused_before_training(
    sources: tuple[str, str], tmp_path: Path
) -> None:
    with np.load(sources[0]) as archive:
        arrays = {name: archive[name][archive["labels"] != 2] for name in archive.files}
    np.savez(tmp_path / "lacking.npz", **arrays)
    data = {"train": str(tmp_path / "lacking.npz")}
    asked = apply_recipe(request(sources, tmp_path, tables={"data": data}))
    stages = plan_stages(asked)
    assert stages is not None
    shop = open_workshop(asked, tmp_path, lambda _: None, lambda *_: None)
    with pytest.raises(InputError, match="no sample of 1 of the 4 classes: 2"):
        compress(asked, stages, shop)


def larger() -> Any:
    import torch
    from torch import nn

    return nn.Conv2d(1, 4, 20), (torch.zeros(1, 1, 20, 20),)


def dynamic() -> Any:
    import torch
    from torch import nn

    class Branch(nn.Module):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input if input.sum() > 0 else -input

    return Branch(), (torch.zeros(1, 1, 12, 12),)


def two_inputs() -> Any:
    import torch
    from torch import nn

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    return Sum(), (torch.zeros(1, 4), torch.zeros(1, 4))


@pytest.mark.tvm
def test_compile_prunes_as_its_option_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compile", "tests.pipeline.stripes:factory", "--target", "host", "--prune", "0.5"]
    code = main([*arguments, "-o", str(tmp_path / "o.dse"), "--format", "json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "pruned: 50% of the parameters" in told.err
    pruned = json.loads(told.out)["pruned"]
    assert pruned["parameters_after"] <= pruned["parameters_before"] / 2
    assert pruned["predicted_ms_after"] is None


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "much"])
def test_a_ratio_outside_0_to_1_is_refused(ratio: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "m.onnx", "--target", "host", "--prune", ratio]) == 2
    assert f"error: can't prune {ratio}" in capsys.readouterr().err
