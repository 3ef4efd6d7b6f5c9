"""Where a compile works, and how long its stages take."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from deepseek_edge.files import output_errors


@contextmanager
def work_directory(dump: Path | None, name: str) -> Iterator[Path]:
    """A folder for what is generated: kept below ``dump``, else gone when the block ends.

    Raises:
        OutputError: it can't be made.
    """
    if dump is None:
        with tempfile.TemporaryDirectory(prefix="deepseek-edge-") as directory:
            yield Path(directory)
        return
    with output_errors(dump):
        (dump / name).mkdir(parents=True, exist_ok=True)
    yield dump / name


def stage_directory(dump: Path | None, stages: object) -> AbstractContextManager[Path | None]:
    """A folder for the checkpoints of a recipe's stages, as :func:`work_directory`; or none."""
    return nullcontext() if stages is None else work_directory(dump, "recipe")


class Stopwatch:
    """Seconds by stage, and in total since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time to ``name``."""
        started = time.perf_counter()
        yield
        self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - started

    def stages(self) -> dict[str, float]:
        """By stage."""
        return dict(self._stages)

    def seconds(self) -> dict[str, float]:
        """By stage, and "total"."""
        return {"total": time.perf_counter() - self._started, **self.stages()}
