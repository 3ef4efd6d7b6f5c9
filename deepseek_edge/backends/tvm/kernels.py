"""TensorIR functions -> one object file: equal kernels are compiled once, LLVM does the rest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from deepseek_edge.target import Target


@dataclass
class KernelTable:
    """The distinct kernels of a program and their names."""

    functions: dict[str, Any] = field(default_factory=dict)
    _by_hash: dict[int, list[str]] = field(default_factory=dict)

    def add(self, function: Any) -> str:
        """The name of a kernel equal to ``function``, which is kept if it is new."""
        key = tvm_ffi.structural_hash(function)
        for name in self._by_hash.get(key, []):
            if tvm_ffi.structural_equal(self.functions[name], function):
                return name
        name = f"k{len(self.functions)}"
        self.functions[name] = function
        self._by_hash.setdefault(key, []).append(name)
        return name


def llvm_target(target: Target) -> Any:
    """TVM's description of our target's CPU."""
    system = "linux-android" if target.os == "android" else "linux-gnu"
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": f"{target.arch}-{system}",
            "mcpu": target.mcpu,
            "mattr": [f"+{feature}" for feature in target.features],
            "opt-level": 3,
        }
    )


def compile_kernels(table: KernelTable, target: Target, out: Path) -> None:
    """Write the object file ``out``; the same kernels and target give the same bytes."""
    functions = {
        name: function.with_attr("global_symbol", name)
        for name, function in table.functions.items()
    }
    module = tirx.transform.BindTarget(llvm_target(target))(tvm.IRModule(functions))
    module = tirx.transform.LowerIntrin()(module)
    build = tvm.get_global_func("target.build.llvm")
    build(module, llvm_target(target)).write_to_file(str(out), "o")
