"""What can be tuned in a program: its steps, their names, and what each can do otherwise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice, Choices
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Value
from deepseek_edge.digest import digest_bytes, digest_file, digest_json
from deepseek_edge.target import Target

if TYPE_CHECKING:
    import onnx

MOST_ROWS = 28


@dataclass(frozen=True)
class TunableStep:
    """A step of a program, or several that are alike.

    Attributes:
        key: of the step.
        description: of what it computes, for a person.
        places: its indices among the program's steps.
        moves: what to try, one after the other: each on top of the best choice until then.
    """

    key: str
    description: str
    places: tuple[int, ...]
    moves: tuple[Choice, ...]


def tunable_steps(model: "onnx.ModelProto", target: Target, batch: int) -> tuple[TunableStep, ...]:
    """The steps of a model's program that can be computed in several ways.

    Raises:
        UnsupportedError, ModelError: as ``compile_program``.
    """
    from deepseek_edge.backends.tvm import prepare
    from deepseek_edge.backends.tvm.schedules import lower

    _, fused, _ = prepare(model, target, batch)
    places: dict[str, list[int]] = {}
    for number, step in enumerate(fused):
        places.setdefault(step_key(step), []).append(number)
    found = []
    for key, numbers in places.items():
        step = fused[numbers[0]]
        chosen = lower(step, target).choice
        if chosen is not None:
            columns = (step.outputs[0].shape or (1,))[-1]
            moves = tuple(possible_moves(chosen, target, columns))
            found.append(TunableStep(key, describe(step), tuple(numbers), moves))
    return tuple(found)


def possible_moves(chosen: Choice, target: Target, columns: int) -> Iterator[Choice]:
    """Other choices than the model's, the most promising first.

    Register tiles are as high as the registers allow beside a broadcast and the weights, or two
    thirds of that, which cuts few rows more evenly; not wider than the ``columns`` there are.
    """
    if chosen.filtering is not None:
        for filtering in ("direct", "F2", "F4"):
            if filtering != chosen.filtering:
                yield Choice(filtering=filtering)
    most = -(-columns // (target.vector_bits // 32))
    for share in (3, 2):
        for vectors in (v for v in (2, 3, 4, 1) if v <= most):
            rows = (target.vector_registers - 1 - vectors) // vectors * share // 3
            tile = (max(1, min(rows, MOST_ROWS)), vectors)
            if tile != (chosen.rows, chosen.vectors):
                yield Choice(rows=tile[0], vectors=tile[1])
    if chosen.blocks_outer is not None:
        yield Choice(blocks_outer=not chosen.blocks_outer)
    for unroll in (1, 2, 4, 8):
        if unroll != chosen.unroll:
            yield Choice(unroll=unroll)


def with_choices(fused: Sequence[FusedStep], choices: Choices) -> list[FusedStep]:
    """The steps, each told what is chosen for it."""
    if not choices:
        return list(fused)
    return [replace(step, choice=choices.get(step_key(step), BY_MODEL)) for step in fused]


def step_key(step: FusedStep) -> str:
    """32 hexadecimal digits: the same for steps that one schedule serves equally well."""
    return digest_bytes(describe(step).encode())[:32]


def describe(step: FusedStep) -> str:
    """Operators, attributes, shapes and dtypes of a step, and how its nodes are connected."""
    inside = {
        value: f"%{number}" for number, node in enumerate(step.nodes) for value in node.outputs
    }

    def text(value: Value | None) -> str:
        if value is None:
            return "-"
        kind = "" if value.data is None else " constant"
        return inside.get(value) or f"{value.dtype}{list(value.shape)}{kind}"

    parts = []
    for node in step.nodes:
        attrs = ", ".join(f"{key}={_plain(node.attrs[key])}" for key in sorted(node.attrs))
        inputs = ", ".join(text(value) for value in node.inputs)
        output = f"{node.output.dtype}{list(node.output.shape)}"
        parts.append(f"{node.op}({inputs}; {attrs}) -> {output}")
    return "; ".join(parts)


def _plain(value: Any) -> str:
    """An attribute's value; of the numbers of one layer only that there are some."""
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_plain, value))}]"
    is_plain = value is None or isinstance(value, bool | int | str)
    return str(value) if is_plain else type(value).__name__


def features_digest(target: Target) -> str:
    """SHA-256 of what decides how fast a schedule is: the CPU, its registers and its caches."""
    return digest_json(
        {
            name: getattr(target, name)
            for name in (
                "arch", "mcpu", "features", "vector_bits", "vector_registers", "cores",
                "l1d_bytes", "l2_bytes", "l3_bytes",
            )
        }
    )  # fmt: skip


def schedules_digest() -> str:
    """SHA-256 of what writes kernels: this back end's sources, and the version of TVM."""
    folder = Path(__file__).parent
    sources = {
        str(path.relative_to(folder)): digest_file(path) for path in sorted(folder.rglob("*.py"))
    }
    return digest_json({**sources, "tvm": version("apache-tvm")})
