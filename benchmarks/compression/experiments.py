"""What is compressed, how, and how long it is trained: the settings of every experiment.

All settings were chosen on images held out of the training set, none on the test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from deepseek_edge.training import TrainConfig

Change = Literal["prune", "sparsify", "ptq", "qat"]


@dataclass(frozen=True)
class Experiment:
    """One network, and what is done to it.

    Attributes:
        network: of ``examples.fashion.ARCHITECTURES``.
        ratio: share of the parameters to remove; None where none are.
        training: of the compressed model; None where nothing is trained.
    """

    name: str
    network: str
    change: Change
    ratio: float | None = None
    training: TrainConfig | None = None


_SGD = TrainConfig(
    epochs=30,
    batch_size=512,
    learning_rate=0.4,
    warmup_epochs=2.0,
    label_smoothing=0.1,
    precision="bfloat16",
    average=0.998,
)
_QAT = TrainConfig(
    epochs=4,
    batch_size=256,
    optimizer="adamw",
    learning_rate=1e-4,
    weight_decay=0.0,
    warmup_epochs=0.2,
    average=0.998,
)

# Of the float networks, by name. The two deeper ones diverge at first without clipping.
BASELINES = {
    "resnet_18": _SGD,
    "resnet_50": replace(_SGD, learning_rate=0.2, warmup_epochs=3.0, clip_factor=0.02),
    "mobilenet_v3_large": replace(_SGD, weight_decay=2e-4, warmup_epochs=3.0, clip_factor=0.02),
}
# The float network teaches, and its soft answers need no smoothing.
_RECOVERY = replace(_SGD, epochs=15, learning_rate=0.1, warmup_epochs=0.5, label_smoothing=0.0)

# Of so deep a net with most of its channels on their way out; see _FADED_AT in making.py.
_FADING = replace(_RECOVERY, epochs=24, clip_factor=0.02)

EXPERIMENTS = (
    Experiment("resnet-18-pruned", "resnet_18", "prune", 0.3, _RECOVERY),
    Experiment("resnet-50-sparse", "resnet_50", "sparsify", 0.7, _FADING),
    Experiment("resnet-18-ptq", "resnet_18", "ptq"),
    Experiment("resnet-18-qat", "resnet_18", "qat", None, _QAT),
    Experiment("mobilenet-v3-large-ptq", "mobilenet_v3_large", "ptq"),
    Experiment(
        "mobilenet-v3-large-qat", "mobilenet_v3_large", "qat", None, replace(_QAT, epochs=3)
    ),
)
SEEDS = (0, 1, 2)
# Training images whose activations' ranges are taken, and which round weights.
CALIBRATION_IMAGES = 256

# --quick: networks that learn something in a minute on two cores, with the same settings for all.
_SMALLER = {
    "resnet_18": "resnet_18_narrow",
    "resnet_50": "resnet_50_narrow",
    "mobilenet_v3_large": "mobilenet_v3_small",
}
_QUICK_SGD = TrainConfig(epochs=3, batch_size=64, learning_rate=0.1, warmup_epochs=0.5, average=0.9)
BASELINES |= {
    name: replace(_QUICK_SGD, clip_factor=BASELINES[larger].clip_factor)
    for larger, name in _SMALLER.items()
}
_QUICK_RECOVERY = replace(_QUICK_SGD, epochs=2, learning_rate=0.03)
_QUICK_TRAINING: dict[Change, TrainConfig] = {
    "prune": _QUICK_RECOVERY,
    "sparsify": replace(_QUICK_RECOVERY, epochs=4, clip_factor=0.02),
    "qat": replace(_QAT, epochs=1, batch_size=64, average=0.9),
}
# Of the training images, of those for quantization, and of the test images. They are not varied:
# so short a training has enough to do with what they are.
QUICK_IMAGES, QUICK_CALIBRATION_IMAGES, QUICK_TESTS = 4000, 32, 2000


def quick(experiment: Experiment) -> Experiment:
    """The same with a smaller network and a short training, for ``--quick``."""
    training = experiment.training and _QUICK_TRAINING[experiment.change]
    return replace(experiment, network=_SMALLER[experiment.network], training=training)
