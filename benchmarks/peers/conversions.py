"""Keeps what peers made of a model, since some take a minute for it; never our own programs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from benchmarks.peers import OURS, PEERS, PeerError, Source
from benchmarks.peers.process import PeerProcess
from deepseek_edge.digest import digest_file
from deepseek_edge.packages import cache_directory


def convert(process: PeerProcess, source: Source, folder: Path) -> Path:
    """Let one side make the file that it loads, or find what it made before.

    Args:
        process: the side.
        source: the model.
        folder: that lives as long as this run, for our program.

    Raises:
        PeerError: there is none, with the reason.
    """
    if process.name == OURS:
        return process.convert(source, Path(tempfile.mkdtemp(prefix="program-", dir=folder)))
    versions = process.versions(PEERS[process.name])
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise PeerError(f"not installed: {', '.join(missing)}")
    key = hashlib.sha256(repr(sorted(versions.items())).encode())
    for graph in (source.graph, source.float_graph):
        key.update(digest_file(graph).encode())
    for code in (f"{process.name}.py", "pnnx.py"):
        key.update((Path(__file__).parent / code).read_bytes())
    kept = cache_directory() / "peers" / f"{process.name}-{key.hexdigest()[:16]}"
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="converting-", dir=kept.parent) as name:
            made = process.convert(source, Path(name))
            if made == source.graph.resolve():
                return made
            product = Path(name) / "product"
            product.mkdir()
            # ncnn's weights lie beside its graph under the same name.
            for file in made.parent.glob(f"{made.stem}.*"):
                shutil.move(file, product)
            product.rename(kept)
    return next(file for file in sorted(kept.iterdir()) if file.suffix != ".bin")
