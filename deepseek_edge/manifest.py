"""What a bundle's manifest.json says, as values with a strict schema.

It binds the source model to the graph that was compiled, to the programs, to the target and the
tools, to the thresholds they were judged by, and to tensors that repeat the judgement anywhere.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from deepseek_edge.artifacts import Entry, Layers, ParityFloat, ParityGraph, Program
from deepseek_edge.digest import canonical_json, digest_json
from deepseek_edge.golden import GOLDEN_INDEX, GoldenTensor, check_golden
from deepseek_edge.stored_zip import refuse
from deepseek_edge.target import Target
from deepseek_edge.tensors import DTYPE_CODES

SCHEMA: Final = 1
MAX_MANIFEST_BYTES = 16 << 20
MANIFEST = "manifest.json"

_PROGRAM_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERIFIED = re.compile(r"host|qemu|gpu:[ -~]{1,64}")
_GPU = re.compile(r"sm_[0-9]{2,3}[a-z]?")
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# What is loaded: a library, or what an engine is built from on the board.
_LOADED = {"tvm": "model.so", "tensorrt": "recipe.json"}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest: immutable, every key stated, no other key allowed."""


class SourceModel(Record, frozen=True):
    """What was compiled.

    Attributes:
        name: of the model file, without folder and suffix.
        sha256: of the model as the user gave it.
        graph_sha256: of the ONNX graph with fixed shapes that the programs were compiled from.
    """

    name: str
    sha256: str
    graph_sha256: str


class TargetRecord(Record, frozen=True):
    """The target description with all its values, as resolved when compiling.

    Attributes:
        sha256: of the canonical JSON of ``fields``.
        fields: as in ``targets/ID.toml``; for "host", what this CPU turned out to have.
    """

    id: str
    sha256: str
    fields: dict[str, Any]


class Tools(Record, frozen=True):
    """Versions of what made the programs; None for a tool that took no part."""

    deepseek_edge: str
    tvm: str | None
    ziglang: str | None
    llvm: str | None
    nvrtc: str | None


class Thresholds(Record, frozen=True):
    """What each program had to reach (design law 5).

    Attributes:
        float_max_abs: largest error of a float output, as a share of the output's range.
        int8_within: share of int8 outputs that are off by at most one step.
        int8_max_steps: no int8 output is off by more steps.
        max_drop_pp: how much of the task metric may be lost, if that was asked for.
    """

    float_max_abs: float = 1e-3
    int8_within: float = 0.999
    int8_max_steps: int = 2
    max_drop_pp: float | None = None


class FloatParity(Record, frozen=True):
    """As :class:`~deepseek_edge.artifacts.ParityFloat`; equal outputs have no SQNR: None."""

    samples: int
    cosine: float
    sqnr_db: float | None
    top1_agreement: float | None


class ProgramRecord(Record, frozen=True):
    """One program: the fields of :class:`~deepseek_edge.artifacts.Program` and its judgement.

    Attributes:
        file: the member that is loaded: a library, or TensorRT's recipe.
        more_files: members that it needs beside it; only TensorRT's has some.
        size_bytes: of all of them.
        gpu: the architecture that it needs, e.g. "sm_87"; None: it runs on the CPU.
        verified: where it ran and matched its graph: "host", "qemu", "gpu:NAME", None: nowhere.
    """

    id: str
    backend: Literal["tvm", "tensorrt"]
    precision: Literal["float32", "float16", "int8", "w4a16"]
    file: str
    more_files: tuple[str, ...]
    gpu: str | None
    size_bytes: int
    code_bytes: int
    weights_bytes: int
    arena_bytes: int
    features: tuple[str, ...]
    entries: tuple[Entry, ...]
    layers: Layers
    verified: str | None
    parity_graph: ParityGraph | None
    parity_float: FloatParity | None


class Manifest(Record, frozen=True):
    """All of manifest.json.

    Attributes:
        programs: in order of preference.
        preprocess: from the evaluation data set, so that ``run`` takes an image; else None.
        labels: from the evaluation data set; else None.
        gateways: SHA-256 of models that a gateway may answer with in this one's place.
    """

    schema: Literal[1]
    model: SourceModel
    target: TargetRecord
    tools: Tools
    thresholds: Thresholds
    programs: tuple[ProgramRecord, ...]
    golden: tuple[GoldenTensor, ...]
    preprocess: dict[str, Any] | None
    labels: dict[str, Any] | None
    gateways: tuple[str, ...]


def program_record(
    program: Program,
    *,
    verified: str | None,
    parity_graph: ParityGraph | None,
    parity_float: ParityFloat | None,
) -> ProgramRecord:
    """What the manifest says of a program that a back end made and parity judged."""
    file, *more_files = program.members
    return ProgramRecord(
        id=program.id,
        backend=program.backend,  # type: ignore[arg-type]  # checked by encode_manifest
        precision=program.precision,  # type: ignore[arg-type]
        file=file,
        more_files=tuple(more_files),
        gpu=program.gpu,
        size_bytes=program.size_bytes,
        code_bytes=program.code_bytes,
        weights_bytes=program.weights_bytes,
        arena_bytes=program.arena_bytes,
        features=program.features,
        entries=program.entries,
        layers=program.layers,
        verified=verified,
        parity_graph=parity_graph,
        parity_float=None if parity_float is None else _finite(parity_float),
    )


def _finite(parity: ParityFloat) -> FloatParity:
    # JSON has no infinity, which is the SQNR of a program that equals its float model.
    return FloatParity(
        samples=parity.samples,
        cosine=parity.cosine,
        sqnr_db=parity.sqnr_db if math.isfinite(parity.sqnr_db) else None,
        top1_agreement=parity.top1_agreement,
    )


def manifest_for_programs(
    programs: Sequence[ProgramRecord],
    golden: Sequence[GoldenTensor],
    *,
    model: SourceModel,
    target: Target,
    tools: Tools,
    thresholds: Thresholds,
    preprocess: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Manifest:
    """Put the manifest of a bundle together; ``programs`` are in order of preference."""
    return Manifest(
        schema=SCHEMA,
        model=model,
        target=TargetRecord(id=target.id, sha256=target.digest, fields=dataclasses.asdict(target)),
        tools=tools,
        thresholds=thresholds,
        programs=tuple(programs),
        golden=tuple(golden),
        preprocess=None if preprocess is None else dict(preprocess),
        labels=None if labels is None else dict(labels),
        gateways=(),
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's canonical JSON.

    Raises:
        BundleError: a value is of another type than the schema says, or not finite.
    """
    try:
        typed = msgspec.convert(msgspec.to_builtins(manifest), Manifest)
        return canonical_json(msgspec.to_builtins(typed))
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise refuse(f"manifest.json can't be written: {error}") from error


def decode_manifest(data: bytes) -> Manifest:
    """Read manifest.json, which must be canonical: a second reader can't see another value.

    Raises:
        BundleError: it is not JSON, of another schema, has unknown keys, or is spelled otherwise.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version != SCHEMA:
            raise refuse(f"manifest.json has schema {version}, this version reads {SCHEMA}")
        manifest = msgspec.json.decode(data, type=Manifest)
        canonical = canonical_json(msgspec.to_builtins(manifest))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise refuse(f"manifest.json: {error}") from error
    if canonical != data:
        raise refuse("manifest.json: unknown or repeated keys, or another spelling than ours")
    return manifest


class _Version(msgspec.Struct):
    schema: int


def member_order(manifest: Manifest) -> tuple[str, ...]:
    """The members of its bundle that DIGESTS lists, in the order in which they lie there."""
    return (
        MANIFEST,
        *(file for program in manifest.programs for file in (program.file, *program.more_files)),
        GOLDEN_INDEX,
        *sorted({tensor.file for tensor in manifest.golden}),
        "LICENSES",
    )


def check_manifest(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Check what the schema can't say: that the parts of a manifest fit each other.

    ``sizes`` are the members' bytes by name.

    Raises:
        BundleError: the first thing that doesn't fit.
    """
    digests = (manifest.model.sha256, manifest.model.graph_sha256, *manifest.gateways)
    if not all(_SHA256.fullmatch(digest) for digest in digests):
        raise refuse("manifest.json: a digest is not 64 hexadecimal digits")
    target = manifest.target
    if target.sha256 != digest_json(target.fields) or target.id != target.fields.get("id"):
        raise refuse("manifest.json: the target's id or digest is not that of its fields")
    if not manifest.programs:
        raise refuse("manifest.json: no program")
    if len({program.id for program in manifest.programs}) != len(manifest.programs):
        raise refuse("manifest.json: two programs have one id")
    for program in manifest.programs:
        _check_program(program, sizes)
        check_golden(program.id, program.entries, manifest.golden, sizes)
    if stray := {tensor.program for tensor in manifest.golden} - {p.id for p in manifest.programs}:
        raise refuse(f"manifest.json: golden tensors of no program: {min(stray)!a}")


def _check_program(program: ProgramRecord, sizes: Mapping[str, int]) -> None:
    where = f"manifest.json: program {program.id!a}"
    _check_files(program, where)
    found = sum(sizes.get(file, 0) for file in (program.file, *program.more_files))
    if found != program.size_bytes:
        raise refuse(f"{where} has {program.size_bytes} bytes, its files {found}")
    if program.gpu is not None and not _GPU.fullmatch(program.gpu):
        raise refuse(f"{where} is for a GPU of no known kind")
    if program.verified is not None and not _VERIFIED.fullmatch(program.verified):
        raise refuse(f"{where} was verified on neither host, qemu nor gpu:NAME")
    if not program.entries:
        raise refuse(f"{where} has no entry")
    for entry in program.entries:
        for spec in (*entry.inputs, *entry.outputs):
            if spec.dtype not in DTYPE_CODES or any(size < 0 for size in spec.shape):
                raise refuse(f"{where}: tensor {spec.name!a} has no such dtype or shape")


def _check_files(program: ProgramRecord, where: str) -> None:
    """Files lie in the program's own folder, and no kind of program has another's."""
    folder = f"programs/{program.id}/"
    if not _PROGRAM_ID.fullmatch(program.id) or program.file != folder + _LOADED[program.backend]:
        raise refuse(f"{where} has an illegal id or file")
    names = [name.removeprefix(folder) for name in program.more_files]
    is_allowed = program.backend == "tensorrt" or not names
    is_legal = all(
        file.startswith(folder) and _FILE_NAME.fullmatch(name)
        for file, name in zip(program.more_files, names, strict=True)
    )
    if not is_allowed or not is_legal or len({*_LOADED.values(), *names}) < 2 + len(names):
        raise refuse(f"{where} has a file that it can't have")
