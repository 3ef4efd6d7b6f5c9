"""Text drawn with the fonts that matplotlib ships: labelled lines and pages without limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]

_FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Bold")
# Words, since nobody can tell l from I in a string of random letters.
_WORDS = """
about across after again almost along always among animal answer around before behind below
between bridge bright broken butter camera candle castle center chance change choose circle
cloud coffee corner cotton country danger decide desert dinner double during early empty
engine enough evening every family farmer father finger flower follow forest friend garden
gentle golden ground happen harbor heavy hidden island jacket journey kitchen ladder leather
letter listen little market matter meadow middle minute mirror moment morning mother narrow
nature number office orange palace pencil people person planet pocket potato power pretty
quarter question quiet rabbit reason repeat river rocket school season second shadow silver
simple sister spring square station stone street summer sunday table thunder ticket toward
travel twelve under valley village violet wander water weather window winter wonder yellow
"""


def line_text(random: np.random.Generator) -> str:
    """Two words, the first with a capital, and a number."""
    words = _WORDS.split()
    first, second = (words[int(i)] for i in random.choice(len(words), 2, replace=False))
    return f"{first.capitalize()} {second} {int(random.integers(2, 100))}"


def line_image(text: str, random: np.random.Generator) -> Image.Image:
    """One line, dark on light, of random font, size and shades."""
    font = _font(random, int(random.integers(24, 44)))
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    margin = int(random.integers(3, 9))
    paper = tuple(int(shade) for shade in random.integers(190, 256, 3))
    ink = tuple(int(shade) for shade in random.integers(0, 90, 3))
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=font)
    return image


def page_image(random: np.random.Generator, size: int) -> Image.Image:
    """A square page of about ten lines."""
    page = Image.new("RGB", (size, size), tuple(int(s) for s in random.integers(180, 256, 3)))
    for row in range(10):
        line = line_image(line_text(random), random)
        x = int(random.integers(0, max(size - line.width, 1)))
        page.paste(line, (x, row * size // 10 + int(random.integers(0, 8))))
    return page


def line_tensor(image: Image.Image, width: int, *, upside_down: bool = False) -> Array:
    """A line as RapidOCR's nets take it: (1, 3, 48, width), BGR (x / 255 - 0.5) / 0.5, 0 beyond."""
    if upside_down:
        image = image.rotate(180)
    scaled = image.resize((min(width, round(48 * image.width / image.height)), 48))
    tensor = np.zeros((1, 3, 48, width), np.float32)
    tensor[..., : scaled.width] = _normalized(scaled)
    return tensor


def page_tensor(image: Image.Image) -> Array:
    """A page (1, 3, size, size), BGR (x / 255 - 0.5) / 0.5."""
    return _normalized(image)[None]


def _normalized(image: Image.Image) -> Array:
    pixels = np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    return np.asarray((pixels / 255 - 0.5) / np.float32(0.5))


def _font(random: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = _FONTS[int(random.integers(len(_FONTS)))]
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)
