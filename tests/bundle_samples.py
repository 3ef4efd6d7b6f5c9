"""A small bundle with two programs, and ways to damage it."""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from deepseek_edge.artifacts import Entry, Layers, ParityFloat, ParityGraph, Program, Step
from deepseek_edge.golden import GoldenTensor, golden_tensors
from deepseek_edge.manifest import (
    Manifest,
    ProgramRecord,
    SourceModel,
    Thresholds,
    Tools,
    manifest_for_programs,
    program_record,
)
from deepseek_edge.target import Qdq, Target
from deepseek_edge.tensors import TensorSpec

TARGET = Target(
    id="tiny-board",
    name="Tiny board",
    kind="cpu",
    arch="aarch64",
    os="linux",
    mcpu="cortex-a76",
    features=("dotprod", "fullfp16"),
    vector_bits=128,
    vector_registers=32,
    cores=4,
    l1d_bytes=65536,
    l2_bytes=524288,
    l3_bytes=0,
    peak_fma_per_cycle=8,
    precisions=("float32",),
    qdq=Qdq(zero_point=True),
    glibc="2.36",
)


def make_program(id: str, library: bytes) -> Program:
    entry = Entry(
        name="batch1",
        inputs=(TensorSpec("x", "float32", (1, 2)),),
        outputs=(TensorSpec("y", "float32", (1, 3)),),
        steps=(Step("/fc/Gemm", "Gemm", macs=6, bytes_read=32, bytes_written=12, tasks=1),),
    )
    return Program(
        id=id,
        backend="tvm",
        precision="float32",
        library=Path("model.so"),
        entries=(entry,),
        features=("dotprod",),
        size_bytes=len(library),
        code_bytes=4,
        weights_bytes=24,
        arena_bytes=64,
        layers=Layers(total=1, int8=0, float16=0, float32=1, int8_macs_share=0.0),
    )


def make_manifest(
    ids: tuple[str, ...] = ("cpu-float32",), *, name: str = "tiny", verified: str | None = "qemu"
) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest and the members that ``write_bundle`` needs with it."""
    records: list[ProgramRecord] = []
    golden: list[GoldenTensor] = []
    members: dict[str, bytes] = {"LICENSES": b"Apache-2.0\n"}
    for id in ids:
        library = b"\x7fELF " + id.encode()
        program = make_program(id, library)
        tensors, files = golden_tensors(
            program,
            {"x": np.array([[1, -2]], np.float32)},
            {"y": np.array([[0.5, 0, 2]], np.float32)},
            tolerances={"y": 0.002},
        )
        record = program_record(
            program,
            verified=verified,
            parity_graph=ParityGraph(samples=1, max_steps=None, max_abs=1e-6, within=1.0),
            parity_float=ParityFloat(1, cosine=1.0, sqnr_db=float("inf"), top1_agreement=None),
        )
        records.append(record)
        golden += tensors
        members |= {record.file: library, **files}
    manifest = manifest_for_programs(
        records,
        golden,
        model=SourceModel(name=name, sha256="0" * 64, graph_sha256="1" * 64),
        target=TARGET,
        tools=Tools(
            deepseek_edge="0.1.0",
            tvm="0.27.0.post1",
            ziglang="0.17.0",
            llvm="22.1",
            nvrtc="11.8.89",
        ),
        thresholds=Thresholds(max_drop_pp=1),
    )
    return manifest, members


@dataclass(frozen=True)
class RawMember:
    """A zip member as a hostile writer would state it; None stands for the honest value."""

    name: bytes
    content: bytes
    flags: int = 0
    method: int = 0
    date: int = 0x21
    mode: int = 0o100644
    extra: bytes = b""
    comment: bytes = b""
    crc: int | None = None
    stored_bytes: int | None = None
    content_bytes: int | None = None
    offset: int | None = None
    local_name: bytes | None = None
    after: bytes = b""


def pack(
    members: list[RawMember],
    *,
    prepended: bytes = b"",
    before_end: bytes = b"",
    comment: bytes = b"",
    appended: bytes = b"",
    count: int | None = None,
) -> bytes:
    """A zip file by hand, from APPNOTE.TXT 4.3: no check stands in the way of a lie."""
    body, directory = prepended, b""
    for m in members:
        crc = zlib.crc32(m.content) if m.crc is None else m.crc
        stored = len(m.content) if m.stored_bytes is None else m.stored_bytes
        size = len(m.content) if m.content_bytes is None else m.content_bytes
        fields = (m.flags, m.method, 0, m.date, crc, stored, size)
        offset = len(body) if m.offset is None else m.offset
        local = m.name if m.local_name is None else m.local_name
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *fields, len(local), len(m.extra))
        body += local + m.extra + m.content + m.after
        directory += struct.pack(
            "<4sBBHHHHHIIIHHHHHII",
            *(b"PK\1\2", 20, 3, 20, *fields, len(m.name), len(m.extra), len(m.comment)),
            *(0, 0, m.mode << 16, offset),
        )
        directory += m.name + m.extra + m.comment
    entries = len(members) if count is None else count
    end = struct.pack(
        "<4sHHHHIIH",
        *(b"PK\5\6", 0, 0, entries, entries, len(directory), len(body), len(comment)),
    )
    return body + directory + before_end + end + comment + appended


def digests(contents: Mapping[str, bytes]) -> bytes:
    """DIGESTS for these members."""
    lines = (f"{sha256(c).hexdigest()} {len(c)} {name}\n" for name, c in contents.items())
    return "".join(sorted(lines, key=lambda line: line.split(" ", 2)[2])).encode()


def raw_members(contents: Mapping[str, bytes]) -> list[RawMember]:
    """Honest members, with DIGESTS made anew as the last one."""
    listed = {name: content for name, content in contents.items() if name != "DIGESTS"}
    return [
        *(RawMember(name.encode(), content) for name, content in listed.items()),
        RawMember(b"DIGESTS", digests(listed)),
    ]


def changed(
    members: list[RawMember], index: int, change: Callable[[RawMember], RawMember]
) -> list[RawMember]:
    """The members with one of them replaced."""
    return [change(m) if i == index % len(members) else m for i, m in enumerate(members)]


def lying(index: int, **fields: object) -> Callable[[list[RawMember]], bytes]:
    """Pack honest members but for some fields of one."""
    return lambda members: pack(
        changed(members, index, lambda m: replace(m, **fields))  # type: ignore[arg-type]
    )
