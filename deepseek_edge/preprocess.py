"""From an image file to the tensor that a network was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# Pillow's modes; "bgr" is converted from "rgb" after resizing.
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image, in this order.

    Attributes:
        color: "rgb", "bgr" or "gray".
        resize: length of the shorter side, or exactly (height, width), or None.
        crop: side of the square, or (height, width), cut from the centre, or None.
        interpolation: of the resizing: "nearest", "bilinear", "bicubic" or "lanczos".
        mean, std: of each channel, or one for all, on the scale 0..255: (x - mean) / std.
        layout: "nchw" or "nhwc".
    """

    color: str
    resize: int | tuple[int, int] | None
    crop: int | tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str


def parse_preprocess(table: Mapping[str, Any]) -> Preprocess:
    """Check a ``[preprocess]`` table of a data set's TOML or of a manifest.

    Raises:
        UsageError: a key is missing or unknown, or a value is out of range.
    """
    names = {field.name for field in dataclasses.fields(Preprocess)}
    required = names - {"resize", "crop"}
    if wrong := (set(table) - names) | (required - set(table)):
        raise UsageError(
            f"[preprocess] lacks or doesn't know: {', '.join(sorted(wrong))}",
            hint=f"its keys: {', '.join(sorted(names))}",
        )
    preprocess = Preprocess(
        color=str(table["color"]),
        resize=_size(table.get("resize")),
        crop=_size(table.get("crop")),
        interpolation=str(table["interpolation"]),
        mean=tuple(float(value) for value in table["mean"]),
        std=tuple(float(value) for value in table["std"]),
        layout=str(table["layout"]),
    )
    _check(preprocess)
    return preprocess


def _size(value: Any) -> int | tuple[int, int] | None:
    if value is None or (isinstance(value, int) and value > 0):
        return value
    if isinstance(value, list | tuple) and len(value) == 2 and all(int(side) > 0 for side in value):
        return int(value[0]), int(value[1])
    raise UsageError(f"[preprocess] has a size {value!r}", hint="a side, or [height, width]")


def _check(preprocess: Preprocess) -> None:
    choices: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("color", tuple(_MODES)),
        ("interpolation", _INTERPOLATIONS),
        ("layout", _LAYOUTS),
    )
    for name, allowed in choices:
        value = getattr(preprocess, name)
        if value not in allowed:
            raise UsageError(
                f"[preprocess] {name} is {value!r}", hint=f"one of {', '.join(allowed)}"
            )
    channels = 1 if preprocess.color == "gray" else 3
    for values in (preprocess.mean, preprocess.std):
        if len(values) not in {1, channels}:
            raise UsageError(f"[preprocess] mean and std need 1 or {channels} numbers")
    if 0.0 in preprocess.std:
        raise UsageError("[preprocess] std is 0")


def image_tensor(
    image: Path | np.ndarray[Any, Any], preprocess: Preprocess
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read an image and turn it into a network's input.

    Args:
        image: path of a file that Pillow reads, or pixels (h, w) or (h, w, 3) uint8.
        preprocess: what to do.

    Returns:
        (1, channels, height, width) float32, or (1, height, width, channels).

    Raises:
        InputError: the file is no image, or smaller than the crop.
    """
    import numpy as np

    pixels = np.asarray(_cropped(_resized(_opened(image, preprocess), preprocess), preprocess))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    mean = np.array(preprocess.mean, np.float32)
    std = np.array(preprocess.std, np.float32)
    scaled = (pixels.astype(np.float32) - mean) / std
    if preprocess.layout == "nchw":
        scaled = scaled.transpose(2, 0, 1)
    return np.ascontiguousarray(scaled[None])


def _opened(image: Path | np.ndarray[Any, Any], preprocess: Preprocess) -> Image:
    import PIL.Image

    mode = _MODES[preprocess.color]
    if not isinstance(image, Path):
        return PIL.Image.fromarray(image).convert(mode)
    try:
        with PIL.Image.open(image) as opened:
            converted: Image = opened.convert(mode)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"can't read the image {image}: {error}") from error
    return converted


def _resized(image: Image, preprocess: Preprocess) -> Image:
    from PIL.Image import Resampling

    if preprocess.resize is None:
        return image
    if isinstance(preprocess.resize, int):
        scale = preprocess.resize / min(image.size)
        width, height = (round(side * scale) for side in image.size)
    else:
        height, width = preprocess.resize
    method = Resampling[preprocess.interpolation.upper()]
    return image.resize((width, height), method)


def _cropped(image: Image, preprocess: Preprocess) -> Image:
    if preprocess.crop is None:
        return image
    size = preprocess.crop
    height, width = (size, size) if isinstance(size, int) else size
    if width > image.width or height > image.height:
        raise InputError(
            f"the image has {image.width} x {image.height} pixels, fewer than the crop's "
            f"{width} x {height}",
            hint="resize to at least the crop's size",
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
