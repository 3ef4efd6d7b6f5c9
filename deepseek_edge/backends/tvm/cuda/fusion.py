"""The elementwise part of a step, in a CUDA kernel: as on the CPU, one element at a time."""

from collections.abc import Sequence

from tvm import tirx

from deepseek_edge.backends.tvm.cuda.threads import Tensor, as_stored
from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules.arithmetic import constant_vector, evaluate
from deepseek_edge.backends.tvm.schedules.functions import converted
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.kernel import Expr, index, store
from deepseek_edge.backends.tvm.schedules.requantize import quantize


class DeviceFusion(Fusion):
    """``Fusion`` for one lane: half floats in memory, no instruction of a CPU."""

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Hand over the kernel's pointers for ``tensors``."""
        self.attach([tensor.buffer for tensor in tensors])

    def _result(self, node: Node, args: Sequence[Expr], lanes: int) -> Expr:
        if node.op == "QuantizeLinear":
            return quantize(node, args[0], lanes, self.target)
        if node.op == "Cast" and node.output.dtype == "float16":
            number = converted(args[0], lanes, "float32")
            half = tirx.call_pure_extern("uint16", "dse_half", number)
            return tirx.call_pure_extern("float32", "dse_float", half)
        return self._product(node, evaluate(node, args, lanes), lanes)

    def _operand(self, value: Value, row: Expr, column: Expr, lanes: int) -> Expr:
        if value.data is not None and value.elements == 1:
            return number_of(value)
        found = super()._operand(value, row, column, lanes)
        if value.dtype != "float16":
            return found
        return tirx.call_pure_extern("float32", "dse_float", found)

    def _write(self, value: Expr, row: Expr, column: Expr, lanes: int) -> None:
        stored = as_stored(self.out, value) if self.out.dtype == "float16" else value
        store(self.buffers[self.out], row * index(self.shape[-1]) + column, lanes, stored)


def number_of(value: Value) -> Expr:
    """A one-element constant as it is computed with."""
    assert value.data is not None
    is_half = value.dtype == "float16"
    return constant_vector(value.data.astype("float32") if is_half else value.data, 1)
