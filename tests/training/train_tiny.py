"""A training run in a process of its own: python -m tests.training.train_tiny JSON.

JSON names the network ("blocks" or "perceptron"), the file to write, perhaps a checkpoint, and
perhaps a step to stay at for ever.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepseek_edge.training import TrainConfig, compose, random_crop, random_flip, train
from tests.training.small_models import blocks, images, perceptron, vectors

torch.set_num_threads(1)


def noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Stands for an augmentation: every sample gets other numbers."""
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def main(options: dict[str, str]) -> None:
    """Train, and write the state dict."""
    convolutional = options["model"] == "blocks"
    model = blocks() if convolutional else perceptron()
    data = images() if convolutional else vectors()
    augment = compose(random_crop(1), random_flip()) if convolutional else noise
    stay = int(options.get("stay_at", "0"))

    def on_step(done: int, _total: int) -> None:
        if done == stay:
            print(f"at step {done}", flush=True)
            time.sleep(120)

    config = TrainConfig(
        epochs=4, batch_size=12, average=0.9, accumulate=2, clip_factor=0.5, device="cpu"
    )
    result = train(
        model,
        replace(data, augment=augment),
        config,
        checkpoint=Path(options["checkpoint"]) if "checkpoint" in options else None,
        on_step=on_step,
    )
    rank = os.environ.get("RANK", "0")
    save_file(model.state_dict(), f"{options['output']}.{rank}")
    print(json.dumps({"rank": rank, "steps": result.steps, "losses": result.losses}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
