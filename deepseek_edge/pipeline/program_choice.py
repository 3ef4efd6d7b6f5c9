"""Which of a bundle's programs is run: the first one, in their order of preference, that can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.manifest import ProgramRecord
from deepseek_edge.pipeline.placement import Place


@dataclass(frozen=True)
class Choice:
    """A program, and why those that are preferred to it aren't run.

    Attributes:
        passed_over: a line each.
    """

    record: ProgramRecord
    passed_over: tuple[str, ...]


def choose_program(
    programs: Sequence[ProgramRecord],
    place: Place,
    gpus: Sequence[str],
    unbuilt: Mapping[str, str],
    *,
    wanted: str | None = None,
) -> Choice:
    """Choose a program.

    Args:
        programs: in order of preference.
        place: where it is to run.
        gpus: architectures of the GPUs that can be used there, e.g. "sm_87".
        unbuilt: why a program whose engine is built on the board has none there, by id.
        wanted: id of the only one that will do.

    Raises:
        UsageError: there is no program of that id.
        UnsupportedError: the one that is wanted, or every one, can't run there; says why.
    """
    if wanted is not None:
        ids = [program.id for program in programs]
        programs = [program for program in programs if program.id == wanted]
        if not programs:
            raise UsageError(f"no program {wanted}", hint=f"there are {', '.join(ids)}")
    passed_over: list[str] = []
    for program in programs:
        reason = obstacle(program, place, gpus) or unbuilt.get(program.id)
        if reason is None:
            return Choice(program, tuple(passed_over))
        passed_over.append(f"{program.id}: {reason}")
    raise UnsupportedError(
        f"no program can run here: {'; '.join(passed_over)}",
        hint="leave --program out" if wanted else "compile with a target that this machine is",
    )


def obstacle(program: ProgramRecord, place: Place, gpus: Sequence[str]) -> str | None:
    """Why a program can't run somewhere; None if nothing is known to be in its way."""
    if program.gpu is None:
        return None
    if place == "qemu":
        return "QEMU emulates no GPU"
    if not gpus:
        return "there is no NVIDIA GPU that can be used (see deepseek-edge doctor)"
    if not any(runs_on(program.gpu, gpu) for gpu in gpus):
        return f"it is for {program.gpu}, here is {', '.join(gpus)}"
    return None


def runs_on(cubin: str, gpu: str) -> bool:
    """True if a GPU runs machine code for an architecture: same major, same or newer minor.

    NVIDIA, CUDA C++ Programming Guide, "Binary Compatibility" (docs.nvidia.com/cuda/
    cuda-c-programming-guide, read 2026-11-26).
    """
    (major, minor), (own_major, own_minor) = _version(cubin), _version(gpu)
    return major == own_major and minor <= own_minor


def _version(arch: str) -> tuple[int, int]:
    """The numbers of e.g. "sm_87" or "sm_103a"."""
    digits = arch.removeprefix("sm_").rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits[:-1]), int(digits[-1])
