"""Cuts the inner loops out of AArch64 disassembly, and says what they consist of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_FUNCTION = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+([a-z][a-z0-9.]*)\s*(.*?)\s*$")
_TARGET = re.compile(r"\b0x([0-9a-f]+)\b(?= <)")
# Any of these may name an address in the same function.
_BRANCH = re.compile(r"^(b|b\.[a-z]+|cbn?z|tbn?z)$")
# What the multiplier of a vector pipe executes, and the additions that integer sums need.
_MULTIPLY = re.compile(
    r"^(fml[as]|fmlal2?|fmul|ml[as]|mul|[su]ml[as]l2?|[su]mull2?|sqdml[as]l2?|sqdmull2?"
    r"|[su]adalp|[su]addlp|[su]dot|usdot|[su]mmla|usmmla)$"
)
_CATEGORIES = (
    ("broadcast load", re.compile(r"^ld[1-4]r$")),
    ("vector load", re.compile(r"^ld[1-4]?$|^ld(r|p|ur|np) [qv]")),
    ("scalar load to vector", re.compile(r"^ld(r|p|ur|np) [bhsd]")),
    ("integer load", re.compile(r"^ld[a-z]+ [wx]")),
    ("vector store", re.compile(r"^st([1-4]|r|p|ur|np)\b( [qvbhsd])")),
    ("integer store", re.compile(r"^st")),
    ("branch", re.compile(r"^(b|b\.[a-z]+|cbn?z|tbn?z|bl|blr|ret) ")),
)


@dataclass(frozen=True)
class Instruction:
    """One line of disassembly.

    Attributes:
        target: where it branches to, if it is a branch inside the function.
    """

    address: int
    mnemonic: str
    operands: str
    target: int | None

    @property
    def text(self) -> str:
        """As an assembler reads it; branches go to the label ``loop``."""
        if self.target is not None:
            return " ".join((self.mnemonic, *self.operands.split()[:-2], "loop"))
        # The address of a constant has no meaning outside the object; any will do.
        operands = re.sub(r"\s*<[^>]*>", "", self.operands)
        return f"{self.mnemonic} {operands}".rstrip()

    @property
    def is_multiply(self) -> bool:
        """Does a vector pipe's multiplier execute it?"""
        return bool(_MULTIPLY.match(self.mnemonic)) and "v" in self.operands


Block = tuple[Instruction, ...]
_OUTSIDE = -1


@dataclass(frozen=True)
class Loop:
    """A loop that holds no other loop.

    Attributes:
        function: whose it is.
        header: address of the block where every iteration begins.
        blocks: by address.
        following: of each block, those that may come next, in the loop or not.
    """

    function: str
    header: int
    blocks: Mapping[int, Block]
    following: Mapping[int, tuple[int, ...]]

    @property
    def body(self) -> Block:
        """All instructions in the order of addresses."""
        return tuple(one for start in sorted(self.blocks) for one in self.blocks[start])

    def path(self, counts: Mapping[int, float]) -> Block:
        """The instructions of the usual iteration, in the order in which they are executed.

        At a fork it goes where more instructions are executed; it leaves out, e.g., what only the
        edges of an image need, and iterations that find nothing to do.

        Args:
            counts: by address, how often each instruction was executed.
        """
        edges = self._edge_counts(counts)
        taken: list[int] = []
        block = self.header
        while block not in taken:
            taken.append(block)
            inside = (to for to in self.following[block] if to in self.blocks)
            block = max(inside, key=lambda to: edges.get((block, to), 0.0) * len(self.blocks[to]))
        return tuple(one for start in taken for one in self.blocks[start])

    def _edge_counts(self, counts: Mapping[int, float]) -> dict[tuple[int, int], float]:
        """How often one block followed another, as far as the counts of blocks tell.

        As many ways lead into a block as out of it, so that the last unknown one of either
        follows from the others, until none does.
        """
        edges = [(start, to) for start in self.blocks for to in self.following[start]]
        edges.append((_OUTSIDE, self.header))
        groups = [
            ([e for e in edges if e[end] == one], one) for one in self.blocks for end in (0, 1)
        ]
        known: dict[tuple[int, int], float] = {}
        while True:
            before = len(known)
            for group, block in groups:
                unknown = [edge for edge in group if edge not in known]
                if len(unknown) == 1:
                    rest = counts.get(block, 0.0) - sum(known.get(edge, 0.0) for edge in group)
                    known[unknown[0]] = max(rest, 0.0)
            if len(known) == before:
                return known


def parse_disassembly(text: str) -> dict[str, tuple[Instruction, ...]]:
    """Read what ``llvm-objdump -d --no-show-raw-insn`` prints.

    Returns:
        The instructions of each function by its name, in the order of addresses.
    """
    functions: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        if named := _FUNCTION.match(line):
            current = functions.setdefault(named[2], [])
        elif current is not None and (found := _INSTRUCTION.match(line)):
            mnemonic, operands = found[2], found[3].split("//")[0].strip()
            target = _TARGET.search(operands) if _BRANCH.match(mnemonic) else None
            address = int(found[1], 16)
            current.append(
                Instruction(address, mnemonic, operands, int(target[1], 16) if target else None)
            )
    return {name: tuple(body) for name, body in functions.items()}


def inner_loops(function: str, code: Sequence[Instruction]) -> list[Loop]:
    """The loops of a function that hold no other loop, in the order of addresses.

    They are natural loops: a branch back to a block that every way to the branch passes, and all
    blocks in between. Several branches to one block make one loop.
    """
    blocks = _basic_blocks(code)
    following = {start: _successors(block, blocks) for start, block in blocks.items()}
    before = _dominators(following)
    found: dict[int, set[int]] = {}
    for start, nexts in following.items():
        for header in nexts:
            if header in before.get(start, ()):
                found.setdefault(header, set()).update(_between(header, start, following))
    inner = {h: body for h, body in found.items() if not (body - {h}) & found.keys()}
    return [
        Loop(
            function,
            header,
            {start: blocks[start] for start in sorted(body)},
            {start: following[start] for start in body},
        )
        for header, body in sorted(inner.items())
    ]


def _basic_blocks(code: Sequence[Instruction]) -> dict[int, Block]:
    addresses = {one.address for one in code}
    starts = {one.target for one in code if one.target in addresses}
    starts |= {after.address for one, after in pairwise(code) if _ends_block(one)}
    blocks: dict[int, list[Instruction]] = {}
    for one in code:
        if not blocks or one.address in starts:
            current = blocks[one.address] = []
        current.append(one)
    return {start: tuple(block) for start, block in blocks.items()}


def _ends_block(one: Instruction) -> bool:
    return one.target is not None or one.mnemonic in ("ret", "br")


def _successors(block: Block, blocks: Mapping[int, Block]) -> tuple[int, ...]:
    last = block[-1]
    falls_through = last.mnemonic not in ("b", "br", "ret")
    possible = (last.target, last.address + 4 if falls_through else None)
    return tuple(one for one in possible if one is not None and one in blocks)


def _dominators(following: Mapping[int, Sequence[int]]) -> dict[int, frozenset[int]]:
    """Of each block that can be reached, those that every way to it passes, itself among them."""
    if not following:
        return {}
    entry = next(iter(following))
    known = {entry: frozenset((entry,))}
    waiting = [entry]
    while waiting:
        start = waiting.pop()
        for after in following[start]:
            new = known[start] if after not in known else known[start] & known[after]
            new |= {after}
            if known.get(after) != new:
                known[after] = new
                waiting.append(after)
    return known


def _between(header: int, end: int, following: Mapping[int, Sequence[int]]) -> set[int]:
    """The blocks from which ``end`` is reached without passing ``header``, and both."""
    earlier: dict[int, set[int]] = {}
    for start, nexts in following.items():
        for after in nexts:
            earlier.setdefault(after, set()).add(start)
    body, waiting = {header, end}, [end]
    while waiting:
        block = waiting.pop()
        if block != header:
            waiting += earlier.get(block, set()) - body
            body |= earlier.get(block, set())
    return body


def category(one: Instruction) -> str:
    """What kind of work an instruction is: a multiplication, a load, address arithmetic..."""
    if one.is_multiply:
        return "multiply"
    line = f"{one.mnemonic} {one.operands.lstrip('{ ')}"
    for name, pattern in _CATEGORIES:
        if pattern.match(line) or pattern.match(one.mnemonic):
            return name
    return "other vector" if re.match(r"[{ ]*[vqdsbh]\d", one.operands) else "integer"


def is_spill(one: Instruction) -> bool:
    """Does it save a register on the stack, or fetch one from there?"""
    return one.mnemonic.startswith(("ld", "st")) and "[sp" in one.operands


def instruction_mix(body: Sequence[Instruction]) -> dict[str, int]:
    """How many instructions there are of each kind; "spill" counts some of the others again."""
    mix = dict(Counter(category(one) for one in body).most_common())
    spills = sum(map(is_spill, body))
    return mix | ({"spill": spills} if spills else {})
