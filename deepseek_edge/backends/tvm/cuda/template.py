"""A step's kernel in C++: its constants, its pointers, and a call of what device/ has."""

from collections.abc import Mapping, Sequence

from deepseek_edge.backends.tvm.cuda.launch import Template, Workspace
from deepseek_edge.backends.tvm.cuda.value import C_MEMORY, Epilogue
from deepseek_edge.backends.tvm.graph import Value


def template(
    header: str,
    tensors: Sequence[Value],
    *,
    numbers: Mapping[str, int],
    call: str,
    epilogue: Epilogue,
    threads: int,
) -> Template:
    """A kernel that makes one call of a device function.

    Args:
        header: the file of device/ that has the function.
        tensors: the kernel's pointers, t0, t1 ...; the last is its output.
        numbers: what the function's type parameter S has as constants.
        call: C++, with the functor of ``epilogue.text`` in it.
        epilogue: what is done with sums.
        threads: of a block.
    """
    element = "int8_t" if epilogue.sum_type == "int32" else "uint16_t"
    total = "int" if epilogue.sum_type == "int32" else "float"
    constants = "\n".join(f"    static constexpr int {k} = {v};" for k, v in numbers.items())
    *inputs, out = [
        f"{C_MEMORY[value.dtype]} *__restrict__ t{number}" for number, value in enumerate(tensors)
    ]
    parameters = ", ".join(
        [
            name if isinstance(value, Workspace) else f"const {name}"
            for name, value in zip(inputs, tensors, strict=False)
        ]
        + [out]
    )
    text = f"""\
struct KERNEL_constants {{
{constants}
    typedef {total} Sum;
    typedef {element} T;
    DSE_DEVICE T packed(float x) {{ return (T)dse_half(x); }}
    DSE_DEVICE T packed(T x) {{ return x; }}
}};
extern "C" __global__ void __launch_bounds__({threads}) KERNEL({parameters}) {{
  typedef KERNEL_constants S;
  {call};
}}
"""
    return Template(header, text, epilogue.function())
