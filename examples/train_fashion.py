"""Train a network of examples/fashion.py on Fashion-MNIST, and tell its accuracy.

    python -m examples.train_fashion resnet_18 --epochs 30 --output resnet_18.safetensors
    torchrun --nproc-per-node 2 -m examples.train_fashion resnet_18 --output resnet_18.safetensors

Where the data set's package can't be fetched, ``python -m examples.fashion_data FILE.npz`` packs
it on another machine for ``--data FILE.npz``.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.evaluation import wilson_interval
from deepseek_edge.training import (
    TrainConfig,
    TrainingData,
    TrainResult,
    check_classes,
    compose,
    predict,
    random_crop,
    random_erase,
    random_flip,
    train,
)
from deepseek_edge.training.config import Augment, Progress, stay_silent
from examples.fashion import ARCHITECTURES, CLASSES, build, save_trained
from examples.fashion_data import BLACK, load_fashion


def main() -> int:
    """Train as the command line says; prints one JSON object on stdout."""
    options = _parser().parse_args()
    try:
        _train(options)
    except DeepSeekEdgeError as error:
        print(f"error: {error}\n\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the checkpoint, if any, is that of the last epoch", file=sys.stderr)
        return 130
    return 0


def augmentation(crop: int, erase: float) -> Augment:
    """Shift, mirror and hide parts.

    Args:
        crop: pixels to move by, 0 for none.
        erase: largest share of an image to erase, 0 for none.
    """
    parts = [random_flip()]
    if crop:
        parts.insert(0, random_crop(crop, fill=BLACK))
    if erase:
        parts.append(random_erase(erase))
    return compose(*parts)


def _train(options: argparse.Namespace) -> None:
    data, test = load_fashion(options.data, validation=options.validation)
    if options.limit:
        data = TrainingData(data.inputs[: options.limit], data.labels[: options.limit])
    check_classes(data.labels, CLASSES)
    augment = augmentation(options.crop, options.erase)
    data = TrainingData(data.inputs, data.labels, augment)
    model = build(options.model, options.seed)
    with _progress_bar() as progress:
        result = train(
            model, data, _config(options), checkpoint=options.checkpoint, progress=progress
        )
    if int(os.environ.get("RANK", "0")) > 0:
        return
    save_trained(model, options.output)
    print(json.dumps(_report(options, result, _correct(model, test, options), len(test))))


def _correct(model: torch.nn.Module, test: TrainingData, options: argparse.Namespace) -> int:
    found = predict(model, test.inputs, device=options.device)
    return int((found == test.labels).sum())


def _config(options: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_epochs=options.warmup_epochs,
        label_smoothing=options.label_smoothing,
        clip_factor=options.clip_factor,
        accumulate=options.accumulate,
        precision=options.precision,
        checkpoint_activations=options.checkpoint_activations,
        average=options.average or None,
        seed=options.seed,
        device=options.device,
    )


def _report(
    options: argparse.Namespace, result: TrainResult, correct: int, samples: int
) -> dict[str, object]:
    low, high = wilson_interval(correct, samples)
    given = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    return {
        "model": options.model,
        "evaluated_on": "validation" if options.validation else "test",
        "samples": samples,
        "top1": round(100 * correct / samples, 3),
        "top1_interval": [round(100 * low, 3), round(100 * high, 3)],
        "seconds": round(result.seconds, 1),
        "samples_per_s": round(result.samples_per_s, 1),
        "steps": result.steps,
        "losses": [round(loss, 5) for loss in result.losses],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "machine": _machine(options.device),
        "settings": given,
    }


def _machine(device: str | None) -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "cpu": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar on stderr; none without a terminal, and one for all processes."""
    if not sys.stderr.isatty() or int(os.environ.get("RANK", "0")) > 0:
        yield stay_silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("train", total=None)
        yield lambda _stage, done, total: bar.update(task, completed=done, total=total)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_fashion", description="Train on Fashion-MNIST."
    )
    parser.add_argument("model", choices=sorted(ARCHITECTURES))
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--checkpoint", type=Path, help="written each epoch, and resumed from")
    parser.add_argument("--data", type=Path, help="packed by examples.fashion_data")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--warmup-epochs", type=float, default=1.0)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--clip-factor", type=float)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--average", type=float, default=0.998, help="decay; 0 for none")
    parser.add_argument("--crop", type=int, default=2, help="pixels; 0 for none")
    parser.add_argument("--erase", type=float, default=0.2, help="share; 0 for none")
    parser.add_argument("--validation", type=int, default=0, help="evaluate on so many held out")
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--device", help="cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
