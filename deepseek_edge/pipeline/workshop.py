"""Where the stages of a recipe work, and the checkpoints that they go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.digest import digest_json
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.given import Progress
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.training import TrainConfig, TrainingData, cross_entropy, train

if TYPE_CHECKING:
    from torch import nn

    from deepseek_edge.training.config import Loss


@dataclass(frozen=True)
class Workshop:
    """Where stages work, and whom they tell.

    Attributes:
        folder: for checkpoints, from which an interrupted run goes on.
        target: id of the first one, which a latency budget is for.
        keys: what each stage's result depends on, as a digest; a checkpoint of others is not its.
    """

    folder: Path
    target: str
    keys: Mapping[str, str]
    narrate: Narrate
    progress: Progress
    clock: Stopwatch

    def train(
        self,
        module: nn.Module,
        data: TrainingData | None,
        config: TrainConfig,
        stage: str,
        loss: Loss = cross_entropy,
    ) -> None:
        """Train a module in place, or go on with that."""
        assert data is not None, "a recipe that trains has data"
        checkpoint = self.checkpoint(stage, config)
        result = train(
            module,
            data,
            config,
            loss=loss,
            checkpoint=checkpoint,
            progress=lambda _, done, total: self.progress(stage, done, total),
        )
        self.narrate(f"{stage}: loss {result.losses[-1]:.4f}, {result.seconds:.0f} s")

    def checkpoint(self, stage: str, config: TrainConfig) -> Path:
        """Where a stage keeps its state; it is told that it begins, or goes on."""
        path = self.folder / f"{stage}-{self.keys[stage.partition('-')[0]]}.safetensors"
        again = ", from its checkpoint" if path.exists() else ""
        self.narrate(f"{stage}: {config.epochs} epochs{again}")
        return path


def open_workshop(
    request: CompileRequest, folder: Path, narrate: Narrate, progress: Progress
) -> Workshop:
    """A workshop for the recipe of a request.

    Args:
        request: with a recipe.
        folder: exists.
        narrate: told lines for a person.
        progress: told (stage, done, total).
    """
    assert request.recipe is not None
    tables, keys = {"model": str(request.model)}, {}
    for name in ("data", "train", "prune", "sparsify", "fine_tune"):
        tables[name] = repr(getattr(request.recipe, name))
        keys[name] = digest_json(tables)[:12]
    # Rounds of pruning train between them.
    keys["prune"] = keys["fine_tune"]
    return Workshop(folder, request.targets[0], keys, narrate, progress, Stopwatch())
