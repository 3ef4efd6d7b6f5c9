from benchmarks.arm_kernels import Kernel, find_code, main_loops
from benchmarks.arm_loops import (
    Instruction,
    category,
    inner_loops,
    instruction_mix,
    is_spill,
    parse_disassembly,
)

# A matrix product's loop inside a loop over rows, as llvm-objdump 19 prints it.
NESTED = """
kernels.o:	file format elf64-littleaarch64

Disassembly of section .text:

0000000000000040 <k0>:
      40:      	mov	x8, #-0x5500            // =-21760
      44:      	mov	x9, x1
      48:      	ldp	q1, q2, [x9], #0x20
      4c:      	ld1r	{ v3.4s }, [x0], #4
      50:      	fmla	v0.4s, v1.4s, v3.s[0]
      54:      	str	q2, [sp, #0x10]
      58:      	subs	x8, x8, #0x1
      5c:      	b.ne	0x48 <k0+0x8>
      60:      	fmul	v0.4s, v0.4s, v4.4s
      64:      	str	q0, [x2], #0x10
      68:      	cbnz	x3, 0x44 <k0+0x4>
      6c:      	ret

0000000000000070 <k1>:
      70:      	cmp	w4, w5
      74:      	b.ge	0x7c <k1+0xc>
      78:      	bl	0x40 <k0>
      7c:      	b	0x40 <k0>
"""

# A window's loop: the row above is skipped at the upper edge, and lies behind the loop's end.
DETOUR = """
0000000000000000 <k2>:
       0:      	cbz	x17, 0x1c <k2+0x1c>
       4:      	fmla	v0.4s, v1.4s, v2.4s
       8:      	fmla	v0.4s, v1.4s, v3.4s
       c:      	fmla	v0.4s, v1.4s, v4.4s
      10:      	add	x4, x4, #0x1
      14:      	b.ne	0x0 <k2>
      18:      	ret
      1c:      	mov	v3.16b, v2.16b
      20:      	cmp	x13, #0x6f
      24:      	b.ls	0xc <k2+0xc>
      28:      	b	0x10 <k2+0x10>
"""


def only_line(text: str) -> Instruction:
    mnemonic, _, operands = text.partition(" ")
    return Instruction(0, mnemonic, operands, None)


def test_functions_are_found_by_name_and_calls_are_no_branches() -> None:
    functions = parse_disassembly(NESTED)
    assert list(functions) == ["k0", "k1"]
    assert [len(code) for code in functions.values()] == [12, 4]
    assert functions["k0"][0].operands == "x8, #-0x5500"
    assert functions["k1"][2].target is None


def test_only_the_innermost_loop_is_cut() -> None:
    functions = parse_disassembly(NESTED)
    (loop,) = inner_loops("k0", functions["k0"])
    assert loop.header == 0x48
    assert [one.text for one in loop.body] == [
        "ldp q1, q2, [x9], #0x20",
        "ld1r { v3.4s }, [x0], #4",
        "fmla v0.4s, v1.4s, v3.s[0]",
        "str q2, [sp, #0x10]",
        "subs x8, x8, #0x1",
        "b.ne loop",
    ]
    assert inner_loops("k1", functions["k1"]) == []
    assert inner_loops("empty", ()) == []


def test_a_branch_keeps_what_it_tests() -> None:
    one = Instruction(0, "tbnz", "w8, #0x3, 0x40 <k0+0x10>", 0x40)
    assert one.text == "tbnz w8, #0x3, loop"


def test_a_jump_into_another_function_is_no_loop() -> None:
    code = parse_disassembly(NESTED)["k1"]
    assert code[-1].target == 0x40
    assert inner_loops("k1", code) == []


def test_path_is_the_usual_iteration_in_order_of_execution() -> None:
    (loop,) = inner_loops("k2", parse_disassembly(DETOUR)["k2"])
    assert loop.header == 0
    counts = dict.fromkeys((0x0, 0xC, 0x10, 0x14), 100.0) | dict.fromkeys((0x4, 0x8), 98.0)
    counts |= dict.fromkeys((0x1C, 0x20, 0x24), 2.0)
    assert [one.address for one in loop.path(counts)] == [0x0, 0x4, 0x8, 0xC, 0x10, 0x14]


def test_path_follows_the_work_where_most_iterations_find_none() -> None:
    (loop,) = inner_loops("k2", parse_disassembly(DETOUR)["k2"])
    counts = dict.fromkeys((0x0, 0x10, 0x14), 100.0) | dict.fromkeys((0x4, 0x8, 0xC), 2.0)
    counts |= dict.fromkeys((0x1C, 0x20, 0x24, 0x28), 98.0)
    path = [one.address for one in loop.path(counts)]
    assert path == [0x0, 0x1C, 0x20, 0x24, 0x28, 0x10, 0x14]


def test_mix_tells_multiplications_from_loads_and_address_arithmetic() -> None:
    (loop,) = inner_loops("k0", parse_disassembly(NESTED)["k0"])
    assert instruction_mix(loop.body) == {
        "vector load": 1,
        "broadcast load": 1,
        "multiply": 1,
        "vector store": 1,
        "integer": 1,
        "branch": 1,
        "spill": 1,
    }


def test_each_instruction_has_its_category() -> None:
    expected = {
        "ldr s3, [x1, x2, lsl #2]": "scalar load to vector",
        "ldp s3, s4, [x1]": "scalar load to vector",
        "ldr q3, [x1]": "vector load",
        "ld1 { v0.4s, v1.4s }, [x1]": "vector load",
        "ldr x3, [sp, #0x8]": "integer load",
        "stp x3, x4, [sp, #0x8]": "integer store",
        "sdot v3.4s, v1.16b, v2.4b[0]": "multiply",
        "smlal2 v3.4s, v1.8h, v2.8h": "multiply",
        "sadalp v3.4s, v1.8h": "multiply",
        "mul x1, x2, x3": "integer",
        "fmaxnm v16.4s, v16.4s, v0.4s": "other vector",
        "mov v16.16b, v2.16b": "other vector",
        "add x2, x2, #0x10": "integer",
        "b loop": "branch",
    }
    assert {text: category(only_line(text)) for text in expected} == expected
    assert is_spill(only_line("ldr x3, [sp, #0x8]"))
    assert not is_spill(only_line("ldr x3, [x1, #0x8]"))


def test_main_loops_are_those_with_the_multiplications() -> None:
    kernel = Kernel("k0", parse_disassembly(NESTED)["k0"], ())
    counts = {one.address: 10.0 for one in kernel.code}
    counts |= dict.fromkeys(range(0x48, 0x60, 4), 990.0)
    (found,) = main_loops(kernel, counts)
    assert (found.share, found.iterations) == (0.99, 990.0)
    assert main_loops(kernel, {}) == []


def test_code_is_found_in_a_library_whose_linker_filled_in_addresses() -> None:
    code = bytes(range(256)) + bytes(reversed(range(256))) + bytes(range(0, 256, 2)) * 2
    filled_in = code[:300] + b"\xff\xff\xff\xff" + code[304:]
    assert find_code(b"\x7fELF" * 20 + filled_in + bytes(64), code) == 80
