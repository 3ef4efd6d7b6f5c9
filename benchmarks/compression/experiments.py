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
QUICK_CALIBRATION_IMAGES = 32


def shortened(config: TrainConfig) -> TrainConfig:
    """The same with one pass over the data, for ``--quick``; in float32, which CPUs are fast at."""
    # AdamW learns something in so few steps whatever the network; SGD's rates are for many.
    return replace(
        config,
        epochs=1,
        batch_size=32,
        optimizer="adamw",
        weight_decay=0.0,
        learning_rate=3e-3 if config.optimizer == "sgd" else 3e-4,
        warmup_epochs=0.1,
        precision="float32",
        average=0.95,
    )
