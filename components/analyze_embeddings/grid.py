"""A sheet of mined pairs as one PNG: two pictures side by side, both similarities beneath."""

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE_PX = 144
GAP_PX = 6  # between the two pictures of a pair
MARGIN_PX = 28  # between pairs and around the sheet
LABEL_PX = 30
TITLE_PX = 34
COLUMNS = 3
INK, FAINT, PAPER, MAT = (28, 27, 25), (96, 93, 88), (255, 255, 255), (240, 239, 236)

Box = tuple[int, int, int, int]


def boxes(index: int) -> tuple[Box, Box]:
    """Returns where the two pictures of pair number `index` lie on the sheet: left, top, right, bottom."""
    row, column = divmod(index, COLUMNS)
    left = MARGIN_PX + column * (2 * TILE_PX + GAP_PX + MARGIN_PX)
    top = MARGIN_PX + TITLE_PX + row * (TILE_PX + LABEL_PX + MARGIN_PX)
    second = left + TILE_PX + GAP_PX
    return (left, top, left + TILE_PX, top + TILE_PX), (second, top, second + TILE_PX, top + TILE_PX)


def draw_grid(title: str, pairs: Sequence[tuple[Image.Image, Image.Image, str]]) -> bytes:
    """Returns the sheet as PNG bytes, a pure function of its arguments.

    Args:
        title: What these pairs have in common.
        pairs: First picture, second picture, and the line beneath them.
    """
    rows = max(1, math.ceil(len(pairs) / COLUMNS))
    width = MARGIN_PX + COLUMNS * (2 * TILE_PX + GAP_PX + MARGIN_PX)
    height = MARGIN_PX + TITLE_PX + rows * (TILE_PX + LABEL_PX + MARGIN_PX)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=ImageFont.load_default(size=20), anchor="lt")
    if not pairs:
        line = "No pair lies within both thresholds."
        pen.text((MARGIN_PX, MARGIN_PX + TITLE_PX), line, fill=FAINT, font=ImageFont.load_default(size=16), anchor="lt")
    for index, (first, second, line) in enumerate(pairs):
        for box, picture in zip(boxes(index), (first, second), strict=True):
            sheet.paste(_tile(picture), box[:2])
        left, _, _, bottom = boxes(index)[0]
        pen.text((left, bottom + 8), line, fill=FAINT, font=ImageFont.load_default(size=15), anchor="lt")
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _tile(picture: Image.Image) -> Image.Image:
    """Returns the whole picture in a square, on a mat where it is not square itself."""
    scale = TILE_PX / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    resized = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE_PX, TILE_PX), MAT)
    tile.paste(resized, ((TILE_PX - size[0]) // 2, (TILE_PX - size[1]) // 2))
    return tile
