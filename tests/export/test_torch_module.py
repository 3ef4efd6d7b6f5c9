import json
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from deepseek_edge.datasets import load_dataset
from deepseek_edge.errors import ModelError, UnsupportedError, UsageError
from deepseek_edge.evaluation import evaluate
from deepseek_edge.export import fix_shapes, load_model

torch = pytest.importorskip("torch")
small = pytest.importorskip("tests.export.torch_modules").small
pytestmark = pytest.mark.torch


MODULES = "tests.export.torch_modules"


def run(model: object, **inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)  # type: ignore[attr-defined]
    outputs: list[NDArray[np.float32]] = session.run(None, inputs)
    return outputs


def test_a_module_computes_the_same_at_any_batch(capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model(f"{MODULES}:small")
    captured = capfd.readouterr()
    module, _ = small()
    for batch in (1, 3):
        x = np.random.default_rng(0).standard_normal((batch, 3, 8, 8), dtype=np.float32)
        (ours,) = run(fix_shapes(model, {}, batch=batch), x=x)
        assert ours == pytest.approx(module(torch.from_numpy(x)).detach().numpy(), abs=1e-5)
    assert captured.out == ""


def test_nodes_are_named_after_modules_and_normalization_is_folded() -> None:
    model = load_model(f"{MODULES}:small")
    names = [node.name for node in model.graph.node]
    assert names[:2] == ["stem.0/Conv", "stem.2/Relu"]
    assert names[-1] == "head/Gemm"
    assert [value.name for value in model.graph.output] == ["output"]


def test_the_graph_is_the_same_every_time_and_names_no_file_of_this_machine() -> None:
    one, two = (load_model(f"{MODULES}:small").SerializeToString() for _ in range(2))
    assert one == two
    assert str(Path(__file__).parent).encode() not in one
    assert b"site-packages" not in one


def test_a_batch_that_the_code_fixes_stays_fixed_and_another_is_refused() -> None:
    model = load_model(f"{MODULES}:fixed_batch")
    assert fix_shapes(model, {}).graph.output[0].type.tensor_type.shape.dim[0].dim_value == 1
    with pytest.raises((UsageError, ModelError)):
        fix_shapes(model, {}, batch=4)


def test_several_outputs_are_numbered() -> None:
    model = load_model(f"{MODULES}:two_outputs")
    assert [value.name for value in model.graph.output] == ["output_0", "output_1"]


def test_a_module_that_can_not_be_traced_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="can't trace Branching"):
        load_model(f"{MODULES}:branching")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"{MODULES}:no_pair", "not \\(module, example inputs\\)"),
        (f"{MODULES}:absent", "has no function absent"),
        ("absent_package.models:f", "can't import absent_package"),
    ],
)
def test_a_wrong_factory_is_a_usage_error(reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(reference)


class TestPt2:
    def saved(self, path: Path) -> Path:
        module, inputs = small()
        torch.export.save(torch.export.export(module, inputs), path)
        return path

    def test_gives_what_the_module_gives(self, tmp_path: Path) -> None:
        model = fix_shapes(load_model(str(self.saved(tmp_path / "m.pt2"))), {})
        x = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
        (ours,) = run(model, x=x)
        assert ours == pytest.approx(small()[0](torch.from_numpy(x)).detach().numpy(), abs=1e-5)

    @pytest.mark.parametrize("keep", [0, 10, 500, -100])
    def test_cut_off_is_refused(self, tmp_path: Path, keep: int) -> None:
        path = self.saved(tmp_path / "m.pt2")
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ModelError, match=r"m\.pt2"):
            load_model(str(path))

    def test_a_flipped_bit_is_refused(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path / "m.pt2")
        with zipfile.ZipFile(path) as archive:
            info = next(i for i in archive.infolist() if "/data/weights/weight_0" in i.filename)
        data = bytearray(path.read_bytes())
        data[info.header_offset + 30 + len(info.filename) + 100] ^= 1
        path.write_bytes(data)
        with pytest.raises(ModelError, match="damaged"):
            load_model(str(path))

    def test_another_zip_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr("m/data.pkl", b"cos\nsystem\n")
        with pytest.raises(ModelError, match="not an exported program"):
            load_model(str(tmp_path / "m.pt2"))

    @pytest.mark.parametrize("part", ["weights", "constants", "sample_inputs"])
    def test_pickled_objects_are_refused_before_they_run(self, tmp_path: Path, part: str) -> None:
        source = self.saved(tmp_path / "sound.pt2")
        fuse = tmp_path / "exploded"
        bomb = b"cos\nmkdir\n(V" + str(fuse).encode() + b"\ntR."
        with (
            zipfile.ZipFile(source) as old,
            zipfile.ZipFile(tmp_path / "m.pt2", "w") as new,
        ):
            root = old.namelist()[0].partition("/")[0]
            for name in old.namelist():
                data = old.read(name)
                if part == "sample_inputs" and "/sample_inputs/" in name:
                    data = bomb
                if part == "weights" and name.endswith("weights_config.json"):
                    config = json.loads(data)
                    next(iter(config["config"].values()))["use_pickle"] = True
                    data = json.dumps(config).encode()
                new.writestr(name, data)
            if part == "constants":
                new.writestr(f"{root}/data/constants/opaque_obj_0", bomb)
        with pytest.raises(UnsupportedError, match="pickled"):
            load_model(str(tmp_path / "m.pt2"))
        assert not fuse.exists()


@pytest.mark.slow
def test_efficientnet_lite0_knows_18_of_the_20_photos() -> None:
    model = fix_shapes(load_model("examples.efficientnet_lite:lite0"), {})
    photos = load_dataset("imagenet-foolbox-20").for_inputs(["x"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)

    def outputs(inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {"output": session.run(None, inputs)[0]}

    top1 = evaluate(outputs, photos, "top1")
    assert (top1.percent, len(top1.kept)) == (90.0, 20)
    assert evaluate(outputs, photos, "top5").percent == 95.0
