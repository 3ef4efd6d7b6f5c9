import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from deepseek_edge.errors import ModelError, UnsupportedError, UsageError
from deepseek_edge.export import fix_shapes, load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def changed(source: Path, folder: Path, **entries: object) -> str:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text("utf-8")) | entries
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


def test_an_encoder_gives_what_transformers_gives_and_masks_padding(encoder_folder: Path) -> None:
    model = fix_shapes(load_model(str(encoder_folder)), {"input_ids": (2, 12)})
    assert not {"Shape", "Expand", "GatherND"} & {node.op_type for node in model.graph.node}
    ids = np.random.default_rng(0).integers(0, 50, (2, 12))
    mask = np.ones((2, 12), np.int64)
    mask[1, 7:] = 0
    (ours,) = ort.InferenceSession(model.SerializeToString()).run(
        ["last_hidden_state"], {"input_ids": ids, "attention_mask": mask}
    )
    reference = transformers.BertModel.from_pretrained(encoder_folder)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state
    assert ours == pytest.approx(theirs.numpy(), abs=1e-5)


def test_the_number_of_tokens_is_asked_for(encoder_folder: Path) -> None:
    with pytest.raises(UsageError, match="input_ids is not fully known"):
        fix_shapes(load_model(str(encoder_folder)), {})


def test_a_vision_model_gives_what_transformers_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    model = fix_shapes(load_model(str(tmp_path)), {})
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (ours,) = ort.InferenceSession(model.SerializeToString()).run(["logits"], {"pixel_values": x})
    with torch.no_grad():
        assert ours == pytest.approx(network(torch.from_numpy(x)).logits.numpy(), abs=1e-4)


def test_code_in_the_folder_is_never_run(encoder_folder: Path, tmp_path: Path) -> None:
    folder = changed(encoder_folder, tmp_path / "m", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(UnsupportedError, match="code of its own"):
        load_model(folder)


def test_pickled_weights_are_not_read(encoder_folder: Path, tmp_path: Path) -> None:
    folder = Path(changed(encoder_folder, tmp_path / "m"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        load_model(str(folder))


def test_weights_of_another_model_are_refused(encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lacks"):
        load_model(changed(encoder_folder, tmp_path / "m", num_hidden_layers=3))


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_cut_off_weights_are_refused(encoder_folder: Path, tmp_path: Path, keep: int) -> None:
    folder = Path(changed(encoder_folder, tmp_path / "m"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="can't read"):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"architectures": []}'])
def test_a_wrong_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(str(tmp_path))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))


def test_an_unknown_architecture_is_unsupported(encoder_folder: Path, tmp_path: Path) -> None:
    folder = changed(encoder_folder, tmp_path / "m", architectures=["NoSuchModel"])
    with pytest.raises(UnsupportedError, match="no architecture NoSuchModel"):
        load_model(folder)
