import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.errors import OutputError, TrainingError, UsageError
from deepseek_edge.training import TrainConfig, TrainingData, train

torch = pytest.importorskip("torch")
small = pytest.importorskip("tests.training.small_models")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.torch

CONFIG = TrainConfig(epochs=3, batch_size=12, average=0.9, learning_rate=0.01, device="cpu")
ROOT = Path(__file__).parents[2]


def header(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        value: dict[str, Any] = json.loads(file.metadata()["deepseek-edge-training"])
    return value


def interrupted(path: Path, config: TrainConfig = CONFIG, *, at: int = 6) -> None:
    """Leave the checkpoint of a run that was stopped in its second epoch."""

    def stop(done: int, _total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small.blocks(), small.images(), config, checkpoint=path, on_step=stop)
    assert header(path)["epoch"] == 1


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("average", [None, 0.9])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    tmp_path: Path, kind: Any, average: float | None
) -> None:
    config = replace(CONFIG, optimizer=kind, average=average)
    whole, resumed = small.blocks(), small.seeded(small.blocks(), 9)
    expected = train(whole, small.images(), config)
    interrupted(tmp_path / "c", config)
    steps: list[int] = []
    found = train(
        resumed,
        small.images(),
        config,
        checkpoint=tmp_path / "c",
        on_step=lambda done, _: steps.append(done),
    )
    assert steps == list(range(5, 13))
    assert small.same(whole, resumed)
    assert found.losses == expected.losses
    assert (found.steps, found.epochs) == (12, 3)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = small.blocks(), small.seeded(small.blocks(), 9)
    train(first, small.images(), CONFIG, checkpoint=tmp_path / "c")
    steps: list[int] = []
    train(
        second,
        small.images(),
        CONFIG,
        checkpoint=tmp_path / "c",
        on_step=lambda done, _: steps.append(done),
    )
    assert steps == []
    assert small.same(first, second)


def test_a_checkpoint_of_another_device_is_taken_up(tmp_path: Path) -> None:
    interrupted(tmp_path / "c")
    train(small.blocks(), small.images(), replace(CONFIG, device=None), checkpoint=tmp_path / "c")
    assert header(tmp_path / "c")["epoch"] == 3


def test_divergence_leaves_the_checkpoint_of_the_last_good_epoch(tmp_path: Path) -> None:
    model = small.blocks()

    def spoil(done: int, _total: int) -> None:
        if done == 6:
            model[0].weight.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="at step 7"):
        train(model, small.images(), CONFIG, checkpoint=tmp_path / "c", on_step=spoil)
    assert header(tmp_path / "c")["epoch"] == 1
    tensors = safetensors.load_file(tmp_path / "c")
    kept = dict(model.named_parameters())
    assert all(torch.equal(tensors[f"model/{name}"], kept[name]) for name in kept)


def refusal(path: Path, **changed: Any) -> str:
    """The message that a run of something else refuses this checkpoint with."""
    given = {"model": small.blocks(), "data": small.images(), "config": CONFIG} | changed
    before = small.parameters(given["model"])
    content = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        train(given["model"], given["data"], given["config"], checkpoint=path)
    assert path.read_bytes() == content
    assert all(map(torch.equal, small.parameters(given["model"]), before))
    assert caught.value.hint is not None
    return str(caught.value)


class TestRefusals:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        interrupted(tmp_path / "c")
        return tmp_path / "c"

    def test_of_other_settings_names_them(self, path: Path) -> None:
        message = refusal(path, config=replace(CONFIG, learning_rate=0.2, epochs=4))
        assert "epochs was 3, is 4, learning_rate was 0.01, is 0.2" in message

    def test_of_another_shape_names_the_parameter(self, path: Path) -> None:
        model = small.blocks()
        model[4] = torch.nn.Linear(4, 5)
        assert "4.bias is (3,) there, (5,) here" in refusal(path, model=model)

    def test_of_another_model_names_what_is_missing(self, path: Path) -> None:
        model = small.blocks()
        model.append(torch.nn.Linear(3, 3))
        assert "5.bias is missing there, (3,) here" in refusal(path, model=model)

    def test_of_other_data(self, path: Path) -> None:
        data = small.images()
        labels = data.labels.clone()
        labels[0] = (labels[0] + 1) % 3
        assert "other training data" in refusal(path, data=TrainingData(data.inputs, labels))

    def test_of_another_version(self, path: Path) -> None:
        tensors, values = safetensors.load_file(path), header(path)
        values["schema"] = 99
        safetensors.save_file(tensors, path, {"deepseek-edge-training": json.dumps(values)})
        assert "version 99" in refusal(path)

    def test_of_weights_that_are_no_checkpoint(self, path: Path) -> None:
        safetensors.save_file({"a": torch.zeros(1)}, path)
        assert "no checkpoint" in refusal(path)

    @pytest.mark.parametrize("kept", [0, 5, 200, -1])
    def test_of_a_file_that_is_cut_off(self, path: Path, kept: int) -> None:
        path.write_bytes(path.read_bytes()[:kept])
        assert "can't read the checkpoint" in refusal(path)

    def test_to_write_where_there_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="absent"):
            train(small.blocks(), small.images(), CONFIG, checkpoint=tmp_path / "absent" / "c")


def start(options: dict[str, str | int]) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "tests.training.train_tiny"]
    return subprocess.Popen(
        [*command, json.dumps(options)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def output(name: str) -> dict[str, str | int]:
        path = tmp_path / name
        return {"model": "blocks", "output": str(path), "checkpoint": f"{path}.checkpoint"}

    with start(output("whole")) as whole, start(output("killed") | {"stay_at": 10}) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "at step 10\n"  # of 16, and 4 an epoch
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert whole.wait() == 0
    assert not (tmp_path / "killed.0").exists()
    assert header(tmp_path / "killed.checkpoint")["epoch"] == 2
    with start(output("killed")) as resumed:
        told = json.loads(resumed.communicate()[0])
    assert told["steps"] == 16
    found, expected = (safetensors.load_file(tmp_path / f"{n}.0") for n in ("killed", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
