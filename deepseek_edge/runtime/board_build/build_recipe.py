"""recipe.json beside the graphs: what to build, what to check it with, and what takes over."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_edge.errors import BundleError
from deepseek_edge.runtime.board_build.decisions import combine_digests
from deepseek_edge.tensors import DTYPE_BYTES, TensorSpec

RECIPE_FILE = "recipe.json"
RECIPE_SCHEMA = 1
# An engine is measured in this order; the first of two that are as fast is not preferred.
BUILD_PRECISIONS = ("int8", "float16", "float32")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*){0,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"schema", "model", "workspace_bytes", "repetitions", "inputs", "graphs", "fallback"}
_TENSOR_KEYS = {"name", "dtype", "shape", "file", "sha256"}


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder, and the digest that it must have."""

    path: Path
    sha256: str

    def read(self) -> bytes:
        """Its content.

        Raises:
            BundleError: it is missing or another one.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path.name} can't be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BundleError(
                f"{self.path.name} is damaged: its SHA-256 differs from the recipe's",
                hint="copy the bundle to the board again",
            )
        return data


@dataclass(frozen=True)
class GoldenFile:
    """A tensor to check engines with.

    Attributes:
        tolerance: largest absolute difference of an output; 0 for inputs.
    """

    spec: TensorSpec
    file: StoredFile
    tolerance: float


@dataclass(frozen=True)
class GraphFile:
    """A graph to build, and the outputs that its engine must give for the golden inputs."""

    precision: str
    file: StoredFile
    outputs: tuple[GoldenFile, ...]


@dataclass(frozen=True)
class BuildRecipe:
    """What recipe.json says.

    Attributes:
        model: a name for messages.
        workspace_bytes: device memory that a layer may use while it runs.
        repetitions: timed runs of each engine.
        inputs: golden inputs, for all graphs.
        graphs: one a precision, in the order of ``BUILD_PRECISIONS``.
        fallback: programs that take over without an engine, best first.
        sha256: of the file, so of everything that it names.
    """

    model: str
    workspace_bytes: int
    repetitions: int
    inputs: tuple[GoldenFile, ...]
    graphs: tuple[GraphFile, ...]
    fallback: tuple[str, ...]
    sha256: str

    @property
    def graphs_sha256(self) -> str:
        """One digest for all graphs."""
        return combine_digests({graph.precision: graph.file.sha256 for graph in self.graphs})


def read_recipe(folder: Path) -> BuildRecipe:
    """Read recipe.json of a folder; nothing that it names is read yet.

    Raises:
        BundleError: it is missing, damaged or not of this schema.
    """
    try:
        data = (folder / RECIPE_FILE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder / RECIPE_FILE} can't be read: {error.strerror}",
            hint="give the folder that holds the graph and its recipe",
        ) from error
    return parse_recipe(data, folder)


def parse_recipe(data: bytes, folder: Path) -> BuildRecipe:
    """What recipe.json says.

    Args:
        data: its content.
        folder: that holds what it names.

    Raises:
        BundleError: it is damaged or not of this schema.
    """
    try:
        return _recipe(json.loads(data.decode("utf-8")), folder, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{RECIPE_FILE} is damaged or of another version: {error}",
            hint="extract the bundle again, with the version that made it",
        ) from error


def _recipe(table: dict[str, Any], folder: Path, data: bytes) -> BuildRecipe:
    _require(set(table) == _KEYS, f"its keys are {sorted(table)}")
    _require(table["schema"] == RECIPE_SCHEMA, f"schema {table['schema']!r}")
    graphs = table["graphs"]
    _require(bool(graphs) and set(graphs) <= set(BUILD_PRECISIONS), f"graphs {sorted(graphs)}")
    _require(isinstance(table["model"], str), "the model has no name")
    return BuildRecipe(
        model=table["model"],
        workspace_bytes=_number(table, "workspace_bytes"),
        repetitions=_number(table, "repetitions"),
        inputs=tuple(_golden(one, folder, is_output=False) for one in table["inputs"]),
        graphs=tuple(_graph(p, graphs[p], folder) for p in BUILD_PRECISIONS if p in graphs),
        fallback=tuple(str(name) for name in table["fallback"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _graph(precision: str, table: dict[str, Any], folder: Path) -> GraphFile:
    _require(set(table) == {"file", "sha256", "outputs"}, f"keys of graph {precision}")
    outputs = tuple(_golden(one, folder, is_output=True) for one in table["outputs"])
    _require(bool(outputs), f"graph {precision} has no golden outputs")
    return GraphFile(precision, _file(table, folder), outputs)


def _golden(table: dict[str, Any], folder: Path, *, is_output: bool) -> GoldenFile:
    keys = _TENSOR_KEYS | {"tolerance"} if is_output else _TENSOR_KEYS
    _require(set(table) == keys, f"keys of a golden tensor: {sorted(table)}")
    shape = tuple(table["shape"])
    _require(all(isinstance(n, int) and n >= 0 for n in shape), f"shape {shape}")
    _require(table["dtype"] in DTYPE_BYTES, f"dtype {table['dtype']!r}")
    _require(isinstance(table["name"], str), "a golden tensor has no name")
    tolerance = float(table["tolerance"]) if is_output else 0.0
    _require(tolerance >= 0, f"tolerance {tolerance}")
    spec = TensorSpec(table["name"], table["dtype"], shape)
    return GoldenFile(spec, _file(table, folder), tolerance)


def _file(table: dict[str, Any], folder: Path) -> StoredFile:
    name, sha256 = table["file"], table["sha256"]
    # A name that leaves the folder is an attack.
    _require(_FILE.fullmatch(name) is not None, f"file name {name!r}")
    _require(_SHA256.fullmatch(sha256) is not None, f"digest of {name}")
    return StoredFile(folder / name, sha256)


def _number(table: dict[str, Any], key: str) -> int:
    value = table[key]
    _require(isinstance(value, int) and value > 0, f"{key} {value!r}")
    return int(value)


def _require(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(what)
