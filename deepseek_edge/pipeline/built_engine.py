"""The engine that dse_build.py built on this board from a bundle's recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deepseek_edge.bundle import Bundle
from deepseek_edge.errors import BundleError, UnsupportedError
from deepseek_edge.golden import decode
from deepseek_edge.manifest import ProgramRecord
from deepseek_edge.parity import Array
from deepseek_edge.runtime.board_build.build_recipe import (
    BuildRecipe,
    GoldenFile,
    GraphFile,
    parse_recipe,
)
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.single_file import DSE_BUILD_FILE


@dataclass(frozen=True)
class BuiltEngine:
    """An engine of a bundle's graphs; its file, GPU and version are checked when it is opened.

    Attributes:
        folder: where dse_build.py keeps it.
        graph: that it was built from: of those in the recipe, the one that won on this board.
        recipe: the bundle's.
        record: dse_build.py's of this engine; what is opened must have its digest.
    """

    folder: Path
    graph: GraphFile
    recipe: BuildRecipe
    record: Mapping[str, Any]

    @property
    def reason(self) -> str:
        """Why that graph won; "" if there was no other."""
        return str(self.record.get("reason", ""))


def find_engine(bundle: Bundle, record: ProgramRecord, folder: Path | None) -> BuiltEngine:
    """Find the engine of a TensorRT program; nothing of it is loaded.

    Args:
        bundle: open and verified.
        record: of the program.
        folder: where dse_build.py keeps engines; None: nobody said.

    Raises:
        UnsupportedError: there is none, or it was built from other graphs; says what builds one.
        BundleError: the recipe is damaged.
    """
    home = PurePosixPath(bundle.path.stem, record.file).parent
    build = (
        f"'deepseek-edge bundle extract {bundle.path}', then "
        f"'python3 {home / DSE_BUILD_FILE} {home}' builds it in {home / 'engines'}"
    )
    if folder is None:
        raise UnsupportedError(f"--engines DIR doesn't say where its engine is; {build}")
    found = EngineStore(folder).read_record() if folder.is_dir() else None
    if found is None:
        raise UnsupportedError(f"{folder} has no engine; {build}")
    recipe = parse_recipe(bundle.read(record.file), Path(record.file).parent)
    graphs = {graph.precision: graph for graph in recipe.graphs}
    key, precision = found.get("key"), found.get("precision")
    if not isinstance(key, dict) or key.get("graphs") != recipe.graphs_sha256:
        raise UnsupportedError(f"the engine in {folder} is of other graphs; {build}")
    if not isinstance(precision, str) or precision not in graphs:
        raise UnsupportedError(f"the engine's record in {folder} is damaged; {build}")
    return BuiltEngine(folder, graphs[precision], recipe, found)


def read_golden(bundle: Bundle, golden: tuple[GoldenFile, ...]) -> dict[str, Array]:
    """Golden tensors of a recipe, by name.

    Raises:
        BundleError: the bundle doesn't hold one of them, or it has another size.
    """
    arrays = {}
    for one in golden:
        data = bundle.read(one.file.path.as_posix())
        if len(data) != one.spec.size_bytes:
            raise BundleError(f"{one.file.path} has {len(data)} bytes, not {one.spec.size_bytes}")
        arrays[one.spec.name] = decode(data, one.spec.dtype, one.spec.shape)
    return arrays
