"""Depthwise convolution of int8: products summed in int32, exactly.

A task is one output row. Vectors run over channels; a tile of neighbouring pixels shares inputs.
Taps outside the image read the zero point, so that sums start from bias - z * sum(w) everywhere.

Where an instruction adds four products (vpdpbusd, sdot), four inputs of a row are interleaved
byte by byte; their pairs serve neighbouring pixels. Elsewhere (ARM without it) smull and smlal add
two products in 16 bits: 2 * 128 * 127 still fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.blocks import split_evenly
from deepseek_edge.backends.tvm.schedules.dot import NEON, Unit, integer_unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry, Span, spans
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
    literal,
    load,
    local,
    loop,
    otherwise,
    select,
    store,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.schedules.weights import scaled, zero_point_sums
from deepseek_edge.target import Target

Inputs = Callable[[int], Expr]


def is_suited(target: Target, channels: int) -> bool:
    """True if the target adds int8 products in fours or in 16 bits, and has channels for it."""
    unit = integer_unit(target)
    return unit.group == 4 and channels >= (8 if unit is NEON else 16)


def integer_depthwise(
    node: Node, fusion: Fusion, target: Target, shape: Geometry, weights: Array
) -> Lowering:
    """IntegerConv with one input channel a group; weights (channels, 1, kh, kw)."""
    taps = weights[:, 0].transpose(1, 2, 0)  # (kh, kw, channels)
    start, _ = zero_point_sums(node, weights.transpose(0, 2, 3, 1)[..., None])
    offset = node.optional(4)
    tables: dict[str, Value] = {
        "taps": constant(f"{node.source}/packed", taps.reshape(-1)),
        "start": constant(f"{node.source}/start", start.reshape(-1)),
        "factor": node.value(2),
    }
    if offset is not None:
        tables["offset"] = offset
    unit = integer_unit(target)
    products = _Pairs(shape) if unit is NEON else _Dots(shape, unit)
    return _Depthwise(node, fusion, target, shape, tables, products).lower()


class _Dots:
    """Four products at a time: sums of 16 channels lie in the order that interleaving makes."""

    narrowest = 16

    def __init__(self, shape: Geometry, unit: Unit) -> None:
        self.shape, self.unit = shape, unit
        # Inputs are interleaved from even places on, so that two pixels share them.
        shifts = (0, 1) if shape.dilation_w == 1 and shape.stride_w % 2 else (0,)
        self.variants = [
            (shift, quad) for shift in shifts for quad in range(-(-(shift + shape.kernel_w) // 4))
        ]

    def tile(self, target: Target) -> int:
        """Pixels whose sums fit half of the registers."""
        return target.vector_registers // 8

    def widest(self, target: Target) -> int:
        """Channels of a vector of bytes."""
        return target.vector_bits // 8

    def order(self, width: int) -> list[int]:
        """The channel of each sum."""
        lanes = range(0, width, 16)
        return [lane + 4 * quarter + i for quarter in range(4) for lane in lanes for i in range(4)]

    def arrange(self, taps: Buffer, column: Expr, width: int) -> Buffer:
        """All filter rows as ``add_row`` reads them."""
        shape, count = self.shape, len(self.variants)
        arranged = local("int8", shape.kernel_h * count * 4 * width)
        with loop(shape.kernel_h) as r:
            base = bind(r * index(shape.kernel_w * shape.channels) + column)
            loaded = [
                bind(load(taps, base + index(s * shape.channels), width))
                for s in range(shape.kernel_w)
            ]
            nothing = literal(0, "int8", width)
            for number, (shift, quad) in enumerate(self.variants):
                places = range(4 * quad - shift, 4 * quad - shift + 4)
                four = [loaded[s] if 0 <= s < shape.kernel_w else nothing for s in places]
                pairs = [_interleaved(four[i], four[i + 1], width, 1) for i in (0, 2)]
                for quarter, vector in enumerate(_quarters(pairs[0], pairs[1], width)):
                    at = (r * index(count) + index(number)) * index(4) + index(quarter)
                    store(arranged, at * index(width), width, vector)
        return arranged

    def add_row(
        self, sums: Buffer, pixels: int, inputs: Inputs, weights: tuple[Buffer, Expr], width: int
    ) -> None:
        """Add one filter row's products to the sums of all pixels."""
        arranged, r = weights
        step, dilation, taps = self.shape.stride_w, self.shape.dilation_w, self.shape.kernel_w
        needed = {p * step + s * dilation for p in range(pixels) for s in range(taps)}
        pairs: dict[int, tuple[Expr, Expr]] = {}
        quads: dict[int, list[Expr]] = {}

        def at(place: int) -> Expr:
            return inputs(place) if place in needed else inputs(max(needed))

        def pair(place: int) -> tuple[Expr, Expr]:
            if place not in pairs:
                pairs[place] = _interleaved(at(place), at(place + dilation), width, 1)
            return pairs[place]

        for pixel in range(pixels):
            shift = pixel * step % 2 if len(self.variants) > 1 and self.variants[-1][0] else 0
            for number, (variant, quad) in enumerate(self.variants):
                if variant != shift:
                    continue
                place = pixel * step - shift + 4 * quad * dilation
                if place not in quads:
                    quads[place] = _quarters(pair(place), pair(place + 2 * dilation), width)
                for quarter, value in enumerate(quads[place]):
                    row = (r * index(len(self.variants)) + index(number)) * index(4 * width)
                    vector = load(arranged, row + index(quarter * width), width)
                    place_of_sum = pixel * width + quarter * width // 4
                    total = load(sums, place_of_sum, width // 4)
                    total = self.unit.accumulate(total, value, vector, width // 4)
                    store(sums, place_of_sum, width // 4, total)


class _Pairs:
    """Two products at a time in 16 bits."""

    narrowest = 8

    def __init__(self, shape: Geometry) -> None:
        self.shape = shape

    def tile(self, target: Target) -> int:
        """Pixels whose sums fit half of the registers."""
        return target.vector_registers // 4

    def widest(self, target: Target) -> int:
        """Channels of one widening multiplication."""
        del target
        return 8

    def order(self, width: int) -> list[int]:
        """The channel of each sum."""
        return list(range(width))

    def arrange(self, taps: Buffer, column: Expr, width: int) -> Buffer:
        """All filter rows as ``add_row`` reads them."""
        shape = self.shape
        arranged = local("int8", shape.kernel_h * shape.kernel_w * width)
        with loop(shape.kernel_h * shape.kernel_w) as tap:
            vector = load(taps, tap * index(shape.channels) + column, width)
            store(arranged, tap * index(width), width, vector)
        return arranged

    def add_row(
        self, sums: Buffer, pixels: int, inputs: Inputs, weights: tuple[Buffer, Expr], width: int
    ) -> None:
        """Add one filter row's products to the sums of all pixels."""
        arranged, r = weights
        step, dilation, taps = self.shape.stride_w, self.shape.dilation_w, self.shape.kernel_w
        base = bind(r * index(taps * width))
        loaded = [bind(load(arranged, base + index(s * width), width)) for s in range(taps)]
        for pixel in range(pixels):
            for first in range(0, taps, 2):
                products = [
                    tirx.call_llvm_pure_intrin(
                        "int16x8",
                        "llvm.aarch64.neon.smull.v8i16",
                        inputs(pixel * step + s * dilation),
                        loaded[s],
                    )
                    for s in range(first, min(first + 2, taps))
                ]
                both = products[0] if len(products) == 1 else products[0] + products[1]
                total = load(sums, pixel * width, width) + tirx.Cast(f"int32x{width}", both)
                store(sums, pixel * width, width, total)


def _interleaved(a: Expr, b: Expr, width: int, size: int) -> tuple[Expr, Expr]:
    """Elements of ``size`` bytes of ``a`` and ``b`` by turns: low and high half of each lane."""
    halves = []
    for half in (0, 8):
        places = [
            which * width + lane + half + element + byte
            for lane in range(0, width, 16)
            for element in range(0, 8, size)
            for which in (0, 1)
            for byte in range(size)
        ]
        halves.append(bind(select([a, b], places)))
    return halves[0], halves[1]


def _quarters(first: tuple[Expr, Expr], second: tuple[Expr, Expr], width: int) -> list[Expr]:
    """Two interleaved pairs -> four bytes of each channel side by side, 4 channels of each lane."""
    return [
        part
        for low, high in zip(first, second, strict=True)
        for part in _interleaved(low, high, width, 2)
    ]


@dataclass
class _Depthwise:
    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    tables: dict[str, Value]
    products: _Dots | _Pairs

    def lower(self) -> Lowering:
        shape = self.shape
        tensors = [self.node.value(0), *self.tables.values(), *self.fusion.tensors]
        rows = shape.batch * shape.out_height
        macs = rows * shape.out_width * shape.channels * shape.kernel_h * shape.kernel_w
        return Lowering(build(tensors, self._task), tuple(tensors), rows, macs)

    def _task(self, buffers: Sequence[Buffer], row: Expr) -> None:
        self.source, *rest = buffers
        self.buffers = dict(zip(self.tables, rest, strict=False))
        self.fusion.attach(rest[len(self.tables) :])
        channels, width = self.shape.channels, self.products.widest(self.target)
        done = 0
        while done < channels:
            if channels - done < self.products.narrowest:
                # Channels that the block before has made already are made again, and alike.
                done, width = channels - self.products.narrowest, self.products.narrowest
            count = (channels - done) // width
            if count:
                with loop(count) as i:
                    self._block(row, bind(index(done) + i * index(width)), width)
                done += count * width
            else:
                width //= 2

    def _block(self, row: Expr, column: Expr, width: int) -> None:
        """All pixels of a row, ``width`` channels from ``column``."""
        arranged = self.products.arrange(self.buffers["taps"], column, width)
        start = local("int32", width)
        order = self.products.order(width)
        natural = bind(load(self.buffers["start"], column, width))
        store(start, 0, width, select([natural], order))
        border = self._border(width)
        if self.shape.can_miss_rows() and self.node.attrs["zero_point"]:
            # All pixels miss the same filter rows, which read the zero point.
            with loop(self.shape.kernel_h) as r:
                _, exists = self._line(row, r)
                with otherwise(exists):
                    self.products.add_row(start, 1, lambda _: border, (arranged, r), width)
        parts = split_evenly(self.shape.out_width, self.products.tile(self.target))
        for span in spans(self.shape, parts):
            with loop(span.count) as i:
                first = bind(index(span.start) + i * index(span.width))
                self._tile(span, (row, first, column), (arranged, start), width)

    def _tile(
        self, span: Span, at: tuple[Expr, Expr, Expr], weights: tuple[Buffer, Buffer], width: int
    ) -> None:
        shape, (row, first, column), (arranged, start) = self.shape, at, weights
        sums = local("int32", span.width * width)
        for pixel in range(span.width):
            store(sums, pixel * width, width, load(start, 0, width))
        with loop(shape.kernel_h) as r:
            line, exists = self._line(row, r)
            with when(exists):
                x = first * index(shape.stride_w) - index(shape.pad_left)
                base = bind(line + column + x * index(shape.channels))
                inputs = self._inputs(span, base, self._border(width), width)
                self.products.add_row(sums, span.width, inputs, (arranged, r), width)
        for pixel in range(span.width):
            out_row = row * index(shape.out_width) + first + index(pixel)
            self._finish(sums, pixel * width, (out_row, column), width)

    def _line(self, row: Expr, r: Expr) -> tuple[Expr, Expr | bool]:
        """Where the input line of a filter row starts, and whether there is one."""
        shape = self.shape
        batch, out_y = shape.split_row(row)
        y = out_y * index(shape.stride_h) + r * index(shape.dilation_h) - index(shape.pad_top)
        y = bind(y)
        return shape.line(batch, y), shape.row_exists(y)

    def _border(self, width: int) -> Expr:
        """What taps outside the image read."""
        return literal(int(self.node.attrs["zero_point"]), self.node.value(0).dtype, width)

    def _inputs(self, span: Span, base: Expr, border: Expr, width: int) -> Inputs:
        """Inputs by distance from the tile's first, each loaded once."""
        loaded: dict[int, Expr] = {}

        def at(place: int) -> Expr:
            x = span.start * self.shape.stride_w - self.shape.pad_left + place
            if not span.is_inside and not 0 <= x < self.shape.width:
                return border
            if place not in loaded:
                address = base + index(place * self.shape.channels)
                loaded[place] = bind(load(self.source, address, width))
            return loaded[place]

        return at

    def _finish(self, sums: Buffer, base: int, at: tuple[Expr, Expr], width: int) -> None:
        """Scale and store one pixel's sums, up to 16 channels at a time."""
        row, column = at
        order = self.products.order(width)
        lanes = width // 4 if width > 16 else width
        parts = [bind(load(sums, base + n * lanes, lanes)) for n in range(width // lanes)]
        for first in range(0, width, 16):
            size = min(16, width)
            places = [order.index(first + i) for i in range(size)]
            total = select(parts, places)
            place = column + index(first)
            result = scaled(total, self.buffers, place, size)
            self.fusion.finish(result, row, place, size)
