"""Reads which release of NVIDIA's software a Jetson runs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deepseek_edge.device.probes.system import System
from deepseek_edge.errors import ProbeError

L4T_FILE = "/etc/nv_tegra_release"
# The meta-package nvidia-jetpack is missing on many boards; these are of its parts.
PACKAGES = ("nvidia-l4t-core", "nvidia-jetpack", "libnvinfer[0-9]*", "cuda-cudart-[0-9]*")
PACKAGE_FORMAT = "${Package}\t${Version}\t${db:Status-Abbrev}\n"

# L4T (Jetson Linux) by its first number: as tabulated in rbonghi/jetson_stats,
# jtop/core/jetson_variables.py, from NVIDIA's JetPack archive; read 2026-11-26.
_JETPACK_SERIES = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}

_RELEASE = re.compile(r"# R(\d{1,4}) \(release\), REVISION: (\d{1,4}(?:\.\d{1,4})*)", re.ASCII)
_PACKAGE_VERSION = re.compile(r"(?:\d+:)?(\d+(?:\.\d+)*)", re.ASCII)


@dataclass(frozen=True)
class Software:
    """Versions that engines and cubins depend on; None for what isn't installed.

    Attributes:
        l4t: Jetson Linux, e.g. "36.4.3".
        jetpack: the meta-package's version if it is installed, e.g. "6.2.1", else the series
            that the L4T belongs to, e.g. "6".
        cuda: of the runtime library. The driver can be newer: it belongs to L4T.
        tensorrt: of libnvinfer.
    """

    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None


def parse_l4t(text: str) -> str:
    """Read /etc/nv_tegra_release: "# R36 (release), REVISION: 4.3, ..." is L4T "36.4.3".

    Raises:
        ProbeError: the text doesn't begin like that.
    """
    match = _RELEASE.match(text)
    if match is None:
        raise ProbeError(
            f"{L4T_FILE} begins with {text[:40]!r}: not the release of a Jetson",
            hint="look at that file on the board; containers have often a copy of another board's",
        )
    return f"{match[1]}.{match[2]}"


def parse_packages(text: str) -> dict[str, str]:
    """Read what ``dpkg-query -W -f PACKAGE_FORMAT`` printed: versions of what is installed.

    Raises:
        ProbeError: a line isn't of three fields.
    """
    found = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 3:
            raise ProbeError(
                f"dpkg-query printed {line[:40]!r}: not a package, its version and its state",
                hint="see whether dpkg-query works on the board",
            )
        name, version, state = fields
        if state.strip() == "ii":  # a removed package whose settings are left is "rc"
            found[name] = version
    return found


def describe_software(l4t: str | None, packages: Mapping[str, str]) -> Software:
    """Say which versions these are.

    Args:
        l4t: of :func:`parse_l4t`, None where the file isn't there (containers).
        packages: of :func:`parse_packages`.
    """
    l4t = l4t or _version(packages.get("nvidia-l4t-core"))
    jetpack = _version(packages.get("nvidia-jetpack"))
    if jetpack is None and l4t is not None:
        jetpack = _JETPACK_SERIES.get(int(l4t.split(".")[0]))
    return Software(
        l4t=l4t,
        jetpack=jetpack,
        cuda=_newest(packages, "cuda-cudart-"),
        tensorrt=_newest(packages, "libnvinfer"),
    )


def read_software(system: System) -> Software:
    """Read the versions of one machine; on one that is no Jetson all of them may be None.

    Raises:
        ProbeError: as the parsers.
    """
    release = system.read_text(L4T_FILE)
    packages = system.run(["dpkg-query", "-W", "-f", PACKAGE_FORMAT, *PACKAGES])
    return describe_software(
        None if release is None else parse_l4t(release), parse_packages(packages or "")
    )


def _version(text: str | None) -> str | None:
    """Upstream's numbers of a Debian version: "10.3.0.30" of "10.3.0.30-1+cuda12.5"."""
    match = _PACKAGE_VERSION.match(text or "")
    return match[1] if match else None


def _newest(packages: Mapping[str, str], prefix: str) -> str | None:
    """Of the packages whose name is the prefix and then a number."""
    known = [
        version
        for name, text in packages.items()
        if re.fullmatch(rf"{prefix}\d[\d-]*", name, re.ASCII) and (version := _version(text))
    ]
    return max(known, key=lambda text: [int(part[:9]) for part in text.split(".")], default=None)
