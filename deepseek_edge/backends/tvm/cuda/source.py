"""The kernels of a program -> one text of CUDA C++.

TensorIR goes through TVM's CUDA code generator, for its text only: one NVRTC then compiles all.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_edge.backends.tvm.cuda.launch import Launch, Template
from deepseek_edge.backends.tvm.kernels import KernelTable

_DEVICE = Path(__file__).parent / "device"
_FUNCTION = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(')
# TVM names the comparison that it means after the functions that treat NaN otherwise.
_NAMES = "#define max dse_max\n#define min dse_min\n"
_NAMES_END = "#undef max\n#undef min\n"


@dataclass
class SourceTable:
    """The distinct kernels of a program; equal ones are kept once."""

    _threads: KernelTable = field(default_factory=KernelTable)
    _values: KernelTable = field(default_factory=KernelTable)
    _templates: dict[str, str] = field(default_factory=dict)  # text -> name
    _headers: set[str] = field(default_factory=set)
    _used: dict[str, None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many kernels there are."""
        return len(self._used)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all kernels, in the order in which they were added."""
        return tuple(self._used)

    def add(self, launch: Launch) -> str:
        """The name of the launch's kernel."""
        kernel = launch.kernel
        name = self._template(kernel) if isinstance(kernel, Template) else self._threads.add(kernel)
        self._used[name] = None
        return name

    def _template(self, template: Template) -> str:
        value = "v" + self._values.add(template.value).removeprefix("k")
        text = re.sub(r"\bVALUE\b", value, template.text)
        self._headers.add(template.header)
        return self._templates.setdefault(text, f"g{len(self._templates)}")

    def text(self) -> str:
        """All of it, for NVRTC; the same kernels give the same text."""
        values = {"v" + k.removeprefix("k"): f for k, f in self._values.functions.items()}
        generated = cuda_source({**self._threads.functions, **values}) if self._used else ""
        headers = ["gather.cuh", *sorted(self._headers)] if self._headers else []
        return "\n".join(
            [
                *((_DEVICE / name).read_text("utf-8") for name in ("prelude.cuh", *headers)),
                _NAMES,
                _FUNCTION.sub(_as_device_function, generated),
                _NAMES_END,
                *(re.sub(r"\bKERNEL", name, text) for text, name in self._templates.items()),
            ]
        )


def _as_device_function(match: "re.Match[str]") -> str:
    name = match.group(1)
    return f"DSE_DEVICE void {name}(" if name.startswith("v") else match.group(0)


def cuda_source(functions: Mapping[str, Any]) -> str:
    """CUDA C++ of TensorIR functions, without TVM's preamble.

    The module that TVM makes of them would compile when it is loaded; it never is.
    """
    import tvm
    from tvm import tirx

    target = tvm.target.Target({"kind": "cuda", "arch": "sm_80"})  # the text is the same for all
    module = tvm.IRModule({k: f.with_attr("global_symbol", k) for k, f in functions.items()})
    for step in (
        tirx.transform.BindTarget(target),
        tirx.transform.NarrowDataType(32),
        tirx.transform.LowerIntrin(),
    ):
        module = step(module)
    text = tvm.get_global_func("target.build.cuda")(module, target).inspect_source()
    start = _FUNCTION.search(text)
    return text[start.start() :].replace("alignas(64) ", "") if start else ""
