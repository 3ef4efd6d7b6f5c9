"""Training of torch modules: one plain loop for a CPU, a GPU or several of them.

Importing this package loads no torch; its functions do.
"""

from deepseek_edge.training.augment import compose, random_crop, random_erase, random_flip
from deepseek_edge.training.clipping import AdaptiveGradientClipper
from deepseek_edge.training.config import Augment, Loss, TrainConfig, TrainingData, TrainResult
from deepseek_edge.training.data import check_classes, load_training_data, split
from deepseek_edge.training.loop import predict, train
from deepseek_edge.training.losses import cross_entropy, distill

__all__ = [
    "AdaptiveGradientClipper",
    "Augment",
    "Loss",
    "TrainConfig",
    "TrainResult",
    "TrainingData",
    "check_classes",
    "compose",
    "cross_entropy",
    "distill",
    "load_training_data",
    "predict",
    "random_crop",
    "random_erase",
    "random_flip",
    "split",
    "train",
]
