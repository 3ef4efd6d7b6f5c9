"""The file that a run is taken up from: a safetensors file with a JSON header.

It is written whole or not at all, holds no code, and is bound to the model's shapes, the settings
and the data: what doesn't fit is refused, by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepseek_edge.digest import canonical_json, digest_bytes
from deepseek_edge.errors import UsageError
from deepseek_edge.files import write_atomic
from deepseek_edge.training.config import TrainConfig, TrainingData, differences, settings
from deepseek_edge.training.state import (
    TrainingState,
    own_shapes,
    restore_tensors,
    state_tensors,
)

SCHEMA = 1
_KEY = "deepseek-edge-training"


def data_digest(data: TrainingData) -> str:
    """SHA-256 over the bytes and shapes of inputs and labels."""
    parts = [data.inputs, data.labels]
    shapes = canonical_json([[str(part.dtype), list(part.shape)] for part in parts])
    content = [part.cpu().contiguous().view(torch.uint8).numpy().tobytes() for part in parts]
    return digest_bytes(shapes + b"".join(digest_bytes(part).encode() for part in content))


def write_checkpoint(path: Path, state: TrainingState, config: TrainConfig, data: str) -> None:
    """Write everything that training needs to go on after this epoch.

    Args:
        path: replaced if it is there.
        state: after a whole epoch.
        config: of the run.
        data: digest of what it trains on.

    Raises:
        OutputError: it can't be written; a checkpoint that was there is untouched.
    """
    header = {
        "schema": SCHEMA,
        "settings": settings(config),
        "data": data,
        "epoch": state.epoch,
        "losses": state.losses,
        "seconds": state.seconds,
    }
    # Copied, since tensors may share memory, which the format forbids.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state_tensors(state).items()
    }
    write_atomic(path, save(tensors, {_KEY: canonical_json(header).decode()}))


def restore_checkpoint(path: Path, state: TrainingState, config: TrainConfig, data: str) -> None:
    """Bring a fresh state to where a checkpoint was written.

    Args:
        path: of the checkpoint.
        state: changed only if all fits.
        config: of this run.
        data: digest of what it trains on.

    Raises:
        UsageError: the file is damaged or no checkpoint, or it is of another version, model,
            settings or data, and which.
    """
    header, tensors = _read(path)
    _check_same_run(path, header, config, data)
    _check_same_model(path, own_shapes(state), tensors)
    restore_tensors(state, tensors)
    state.epoch = header["epoch"]
    state.losses = list(header["losses"])
    state.seconds = header["seconds"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            f"can't read the checkpoint {path}: {error}",
            hint="it is cut off or no checkpoint: delete it to start anew",
        ) from error
    if not isinstance(header, dict):
        raise UsageError(
            f"{path} holds tensors, but is no checkpoint of a training run",
            hint="choose another file to write checkpoints to",
        )
    if header.get("schema") != SCHEMA:
        raise UsageError(
            f"the checkpoint {path} is of version {header.get('schema')}, not {SCHEMA}",
            hint="go on with the version that wrote it, or delete it to start anew",
        )
    return header, tensors


def _check_same_run(path: Path, header: Mapping[str, Any], config: TrainConfig, data: str) -> None:
    if changed := differences(config, header["settings"]):
        raise UsageError(
            f"the checkpoint {path} is of other settings: {', '.join(changed)}",
            hint="give those it was made with, or choose another file to start anew",
        )
    if header["data"] != data:
        raise UsageError(
            f"the checkpoint {path} is of other training data",
            hint="give the data it was made with, or choose another file to start anew",
        )


def _check_same_model(
    path: Path, own: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> None:
    stored = {n: tuple(t.shape) for n, t in tensors.items() if not n.startswith("optimizer/")}
    # The model's own tensors first: their names tell more than those of averages.
    for name in sorted(own.keys() | stored.keys(), key=lambda name: (name[0] != "m", name)):
        if own.get(name) != stored.get(name):
            kept, here = stored.get(name, "missing"), own.get(name, "missing")
            raise UsageError(
                f"the checkpoint {path} is of another model: "
                f"{name.removeprefix('model/')} is {kept} there, {here} here",
                hint="give the model it was made with, or choose another file to start anew",
            )
