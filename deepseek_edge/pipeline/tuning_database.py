"""What tuning found, on disk: a JSON file that can be shared between machines of one kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.errors import UsageError
from deepseek_edge.files import output_errors, write_atomic


@dataclass(frozen=True)
class Finding:
    """The best known choice for one kind of step.

    Attributes:
        description: what the step computes.
        choice: on top of the model's own.
        ms, default_ms: of one such step, with this choice and with the model's.
        measured: how many of the step's moves have been tried.
    """

    description: str
    choice: Choice = BY_MODEL
    ms: float = 0.0
    default_ms: float = 0.0
    measured: int = 0

    @property
    def ratio(self) -> float:
        """Time over that of the model's choice."""
        return self.ms / self.default_ms if self.default_ms > 0 else 1.0


@dataclass(frozen=True)
class Database:
    """Findings by step key, and what they hold for.

    Attributes:
        target: an id, for people.
        features_sha256: of the CPU that they were measured on.
        schedules_sha256: of the code that the choices were made for.
    """

    target: str
    features_sha256: str
    schedules_sha256: str
    entries: Mapping[str, Finding] = field(default_factory=dict)
    schema: Literal[1] = 1

    def with_finding(self, key: str, finding: Finding) -> "Database":
        """A copy that has this finding for a key."""
        return replace(self, entries={**self.entries, key: finding})


def read_database(path: Path, empty: Database, narrate: Callable[[str], None]) -> Database:
    """What is known for the machine and the code that ``empty`` names.

    A file of another machine or version, or one that is damaged, is told of and ignored: it
    stays as it is until something is found that takes its place.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Database)
    except FileNotFoundError:
        return empty
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        narrate(f"warning: {path} is no tuning database and is ignored: {error}")
        return empty
    if found.features_sha256 != empty.features_sha256:
        reason = f"for another CPU ({found.target})"
    elif found.schedules_sha256 != empty.schedules_sha256:
        reason = "for another version of the compiler"
    else:
        return found
    narrate(f"warning: {path}: {len(found.entries)} entries are {reason} and are ignored")
    return empty


def check_database(path: Path) -> None:
    """Refuse a file that holds something else: a search would replace it.

    Raises:
        UsageError: it is no JSON object, or one of another kind. One that is cut off passes.
    """
    data = path.read_bytes().lstrip() if path.is_file() else b""
    if not data:
        return
    try:
        is_other = not data.startswith(b"{") or "features_sha256" not in msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if is_other:
        raise UsageError(f"{path} is no tuning database", hint="name another file with --tune-db")


def write_database(path: Path, database: Database) -> None:
    """Write the file whole.

    Raises:
        OutputError: it can't be written; what was there is untouched.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(database, order="sorted")
    write_atomic(path, msgspec.json.format(encoded, indent=1) + b"\n")
