import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.errors import InputError, UsageError

torch = pytest.importorskip("torch")
fashion = pytest.importorskip("examples.fashion")
fashion_data = pytest.importorskip("examples.fashion_data")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]


# torchvision's ResNets for 1000 classes have 11,689,512 and 25,557,032 parameters. Ours lack 990
# classes, two channels of colour, and 40 of the 49 weights of each of 64 first filters.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet_18", 11_689_512 - 990 * 513 - 64 * (3 * 49 - 9)),
        ("resnet_50", 25_557_032 - 990 * 2049 - 64 * (3 * 49 - 9)),
        # torchvision's has 5,483,032.
        ("mobilenet_v3_large", 5_483_032 - 990 * 1281 - 2 * 16 * 9),
        # torchvision's has 2,542,856.
        ("mobilenet_v3_small", 2_542_856 - 990 * 1025 - 2 * 16 * 9),
    ],
)
def test_networks_have_the_papers_numbers_of_parameters(name: str, count: int) -> None:
    assert sum(p.numel() for p in fashion.build(name).parameters()) == count


@pytest.mark.parametrize("name", sorted(fashion.ARCHITECTURES))
def test_the_same_weights_take_images_of_other_sizes(name: str) -> None:
    model = fashion.build(name).eval()
    with torch.no_grad():
        assert model(fashion.example_input()).shape == (1, 10)
        assert model(fashion.example_input(64)).shape == (1, 10)


def test_only_strides_of_2_make_images_smaller() -> None:
    features = fashion.resnet_18().eval()
    with torch.no_grad():
        assert features.stem(fashion.example_input()).shape == (1, 64, 28, 28)
        assert features.stages(features.stem(fashion.example_input())).shape == (1, 512, 4, 4)
        mobile = fashion.mobilenet_v3_large().eval()
        assert mobile.features(fashion.example_input()).shape == (1, 960, 2, 2)


def test_a_seed_makes_the_same_network_and_disturbs_no_other_numbers() -> None:
    before = torch.get_rng_state()
    one, two, other = (fashion.resnet_18(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.stem[0].weight, two.stem[0].weight)
    assert not torch.equal(one.stem[0].weight, other.stem[0].weight)


def test_blocks_are_trained_from_the_identity_but_compiled_with_all_their_layers() -> None:
    image = fashion.example_input()
    with torch.no_grad():
        fresh, (settled, _) = fashion.resnet_18().eval().stages[0][1], fashion.fashion_resnet_18()
        features = torch.rand(1, 64, 28, 28)
        assert torch.equal(fresh(features), features)
        assert not torch.equal(settled.stages[0][1](features), features)
        assert settled(image).std() > 0.1


class TestTrained:
    def test_weights_come_back_as_they_were_saved(self, tmp_path: Path) -> None:
        model = fashion.build("mobilenet_v3_large", 3).eval()
        fashion.save_trained(model, tmp_path / "w")
        loaded, (example,) = fashion.load_trained("mobilenet_v3_large", tmp_path / "w", size=32)
        assert not loaded.training and example.shape == (1, 1, 32, 32)
        with torch.no_grad():
            assert torch.equal(loaded(example), model(example))

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        model = fashion.build("mobilenet_v3_large")
        halves = {
            k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()
        }
        save_file(halves, tmp_path / "w")
        loaded, _ = fashion.load_trained("mobilenet_v3_large", tmp_path / "w")
        weight = loaded.classifier[0].weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, model.classifier[0].weight.half().float())

    def test_weights_of_another_network_and_files_that_are_none_are_refused(
        self, tmp_path: Path
    ) -> None:
        fashion.save_trained(fashion.build("mobilenet_v3_large"), tmp_path / "w")
        (tmp_path / "none").write_bytes(b"nothing")
        for path in (tmp_path / "w", tmp_path / "none", tmp_path / "absent"):
            with pytest.raises(UsageError, match="no weights of resnet_18"):
                fashion.load_trained("resnet_18", path)
        with pytest.raises(UsageError, match="no network resnet_19"):
            fashion.load_trained("resnet_19", tmp_path / "w")


def packed(path: Path, train: int = 200, test: int = 50) -> Path:
    """A file of noise in which class c is brighter than class c - 1."""
    arrays: dict[str, Any] = {}
    generator = np.random.default_rng(0)
    for name, count in ((fashion_data.TRAIN, train), (fashion_data.TEST, test)):
        labels = np.arange(count, dtype=np.int64) % 10
        noise = generator.integers(0, 20, (count, 28, 28))
        arrays[f"{name}/images"] = (noise + 20 * labels[:, None, None]).astype(np.uint8)
        arrays[f"{name}/labels"] = labels
    np.savez(path, **arrays)
    return path


def test_packed_images_are_scaled_as_the_data_set_says(tmp_path: Path) -> None:
    data, test = fashion_data.load_fashion(packed(tmp_path / "f.npz"))
    assert data.inputs.shape == (200, 1, 28, 28) and len(test) == 50
    with np.load(tmp_path / "f.npz") as archive:
        first = archive["fashion-mnist-train/images"][0, 0, 0]
    assert data.inputs[0, 0, 0, 0].item() == pytest.approx((first - 72.94) / 90.02)
    kept, held = fashion_data.load_fashion(tmp_path / "f.npz", validation=40)
    assert (len(kept), len(held)) == (160, 40)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.zeros(1))
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04")
    for name in ("f.npz", "g.npz", "absent.npz"):
        with pytest.raises(InputError, match="no Fashion-MNIST"):
            fashion_data.load_fashion(tmp_path / name)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "examples.train_fashion", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_script_trains_writes_weights_and_prints_one_object(tmp_path: Path) -> None:
    result = run(
        *("mobilenet_v3_large", "--data", str(packed(tmp_path / "f.npz")), "--device", "cpu"),
        *("--output", str(tmp_path / "w"), "--checkpoint", str(tmp_path / "c"), "--epochs", "1"),
        *("--batch-size", "20", "--average", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert (told["steps"], told["samples"], told["evaluated_on"]) == (10, 50, "test")
    assert told["top1_interval"][0] <= told["top1"] <= told["top1_interval"][1]
    assert told["machine"]["gpu"] is None
    fashion.load_trained("mobilenet_v3_large", tmp_path / "w")
    assert (tmp_path / "c").is_file()


def test_the_script_needs_few_packages() -> None:
    code = "import sys, examples.train_fashion; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "torch" in loaded
    others = {"onnx", "onnxruntime", "tvm", "typer", "matplotlib", "PIL", "transformers", "ziglang"}
    assert others & set(loaded) == set()


def test_the_script_tells_what_is_wrong_in_one_line_and_a_hint(tmp_path: Path) -> None:
    result = run("resnet_18", "--data", "absent.npz", "--output", str(tmp_path / "w"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: absent.npz holds no Fashion-MNIST")
    assert "\nhint: write it with" in result.stderr
