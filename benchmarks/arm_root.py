"""An ARM64 Python with the peers' wheels in a folder, for QEMU's user mode.

``python -m benchmarks.arm_root DIR`` unpacks Debian's ARM64 packages and PyPI's ARM64 wheels. It
needs apt and pip, no root rights and no chroot: QEMU looks into DIR first (option -L).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.target import Target

# What Python and the wheels link to; Debian 12's names.
PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1"),
    *("libexpat1", "libffi8", "zlib1g", "libbz2-1.0", "liblzma5", "libssl3", "libuuid1"),
)
WHEELS = ("numpy", "onnxruntime", "flatbuffers", "protobuf", "ncnn")
_PYTHON = "3.11"
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# Implementer, part and features as Linux shows them: Arm's, by the technical reference manuals.
_CPUINFO = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
    ),
}


def make_root(folder: Path) -> None:
    """Fill a folder; what is there already is kept.

    Raises:
        DeepSeekEdgeError: apt or pip failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        packages = _download_packages(Path(name))
        for package in packages:
            _start(["dpkg-deb", "-x", str(package), str(folder)])
        wheels = Path(name) / "wheels"
        options = [f"--platform={platform}" for platform in _PLATFORMS]
        options += [f"--python-version={_PYTHON}", "--only-binary=:all:", "--no-deps"]
        pip = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels)]
        _start([*pip, *options, *WHEELS])
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(_site(folder))


def describe_cpu(root: Path, target: Target) -> None:
    """Let programs in the root see one core of a target, and not this machine's.

    onnxruntime chooses kernels by what /proc and /sys say, and crashes on an x86 machine's.
    """
    part, features = _CPUINFO[target.mcpu]
    cpu = root / "sys/devices/system/cpu"
    text = f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
    text += (
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\n"
    )
    files = {root / "proc/cpuinfo": text + "CPU revision\t: 0\n\n"}
    files |= {cpu / name: "0\n" for name in ("kernel_max", "possible", "present", "online")}
    topology: tuple[str, ...] = ("core_id", "physical_package_id", "cluster_cpus_list")
    topology += ("package_cpus_list", "core_siblings_list", "thread_siblings_list")
    files |= {cpu / "cpu0/topology" / name: "0\n" for name in topology}
    for name in ("cpuinfo_max_freq", "cpuinfo_min_freq"):
        files[cpu / "cpu0/cpufreq" / name] = f"{(target.clock_hz or 10**9) // 1000}\n"
    caches = ((0, 1, "Data", target.l1d_bytes), (1, 1, "Instruction", target.l1d_bytes))
    for index, level, kind, size in (*caches, (2, 2, "Unified", target.l2_bytes)):
        cache = cpu / f"cpu0/cache/index{index}"
        files |= {cache / "level": f"{level}\n", cache / "type": f"{kind}\n"}
        files |= {cache / "size": f"{size >> 10}K\n", cache / "shared_cpu_list": "0\n"}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def python_command(root: Path) -> tuple[list[str], dict[str, str]]:
    """The command that starts the root's Python, and the variables that it needs."""
    home = root.absolute()
    variables = {"PYTHONHOME": str(home / "usr"), "PYTHONPATH": str(_site(home))}
    variables |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    return [str(home / f"usr/bin/python{_PYTHON}")], variables


def peer_versions(root: Path) -> dict[str, str]:
    """The versions of the wheels in a root."""
    names = (path.name.removesuffix(".dist-info") for path in _site(root).glob("*.dist-info"))
    pairs = (name.rpartition("-") for name in sorted(names))
    return {name: version for name, _, version in pairs if name in WHEELS}


def _site(root: Path) -> Path:
    return root / "site-packages"


def _download_packages(folder: Path) -> list[Path]:
    # Lists of its own, so that this machine's apt need not know the architecture.
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = ["-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64"]
    options += [f"-oDir::State::Lists={folder}/lists", f"-oDir::State::status={folder}/status"]
    options += [f"-oDir::Cache={folder}", "-oAPT::Sandbox::User="]
    _start(["apt-get", "-qq", *options, "update"])
    _start(["apt-get", "-qq", *options, "download", *PACKAGES], folder)
    return sorted(folder.glob("*.deb"))


def _start(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        what = f"exit status {done.returncode}"
        raise DeepSeekEdgeError(f"{command[0]} failed: {(lines or [what])[-1]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.arm_root DIR")
    make_root(Path(sys.argv[1]))
