"""The synthetic world: scenes with known factors, their pictures and their captions.

A scene shows several copies of one object and one printed word. Its factors are drawn independently and
uniformly, so that what an encoder keeps of each can be measured by a probe. Captions name the word, and
half of them the object: what else language supervision keeps, it keeps unasked. Copies of the object are
spread over the picture and the word occurs once, as in photographs, where most crops still show the subject
and few show the text.

Two choices keep it learnable in a minute on two cores. The copies stand near a 3 x 3 grid, so that a small
encoder meets the same shape at few alignments. And captions may leave out the object: where all of them name
it, a small CLIP learns the easy object and stops reading (word probe 13 %, below random init).
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFont

OBJECTS = ("ball", "box", "tent", "star", "cross", "heart", "moon", "arrow", "hourglass", "bolt")
COLOURS = {  # muted, and all about as dark (luma 93 to 111): shape is seen in light and dark, colour in hue
    "red": (165, 75, 75),
    "orange": (160, 95, 40),
    "yellow": (125, 110, 30),
    "green": (60, 125, 60),
    "cyan": (30, 120, 125),
    "blue": (75, 90, 180),
    "purple": (125, 75, 165),
    "pink": (175, 75, 130),
}
BACKGROUNDS = ("plain", "gradient", "chequered", "lined", "dotted", "speckled")
STYLES = ("solid", "outlined", "striped", "spotted")
WORDS = ("cat", "dog", "sun", "bus", "map", "key", "owl", "fig", "jet", "zip")
COUNTS = (4, 5, 6, 7)
POSITIONS = ("top left", "top right", "bottom left", "bottom right")

FACTORS: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": tuple(COLOURS),
    "background": BACKGROUNDS,
    "style": STYLES,
    "word": WORDS,
    "count": tuple(str(count) for count in COUNTS),
    "position": POSITIONS,
}

TEMPLATES = (  # as web captions do, half of them leave out what is in plain sight
    "{objects} and the word {word}",
    "the word {word} and {objects}",
    "a sign that says {word}",
    "the word {word}",
)

_SUPERSAMPLING = 3  # pictures are drawn larger and averaged down, so that edges are smooth
_SIGN_WIDTH, _SIGN_HEIGHT = 0.62, 0.31  # of the picture's side; a word of three letters fills it
_MARGIN = 0.01  # between the sign and the picture's edges
_TEXTURE_SIDE = 32  # speckles per side


@dataclass(frozen=True)
class Scene:
    """One scene: seven factors, then the nuisances that the picture needs and nobody is asked about.

    Attributes:
        copies: (x, y, radius) of each copy of the object, as fractions of the side.
        tones: grey levels (0-255) of the background's two tones.
        shift: phase of the background's pattern, in eighths of its period.
        texture: seed of the speckles.
        template: index into TEMPLATES.
    """

    object: str
    colour: str
    background: str
    style: str
    word: str
    count: str
    position: str
    copies: tuple[tuple[float, float, float], ...]
    tones: tuple[int, int]
    shift: float
    texture: int
    template: int


def sample_scene(seed: int, index: int) -> Scene:
    """Returns scene number `index` of the world `seed`: a pure function of the two."""
    rng = random.Random(f"ceteris world {seed} {index}")
    factors = {name: rng.choice(values) for name, values in FACTORS.items()}
    light = rng.randint(205, 250)
    tones = (light, light - rng.randint(25, 45))
    return Scene(
        **factors,
        copies=_place(rng, int(factors["count"]), factors["position"]),
        tones=tones if rng.random() < 0.5 else tones[::-1],
        shift=rng.randrange(8) / 8,
        texture=rng.getrandbits(32),
        template=rng.randrange(len(TEMPLATES)),
    )


def caption(scene: Scene) -> str:
    """Returns a caption that names the word, perhaps the object, and nothing else of the scene."""
    plural = {"box": "boxes", "cross": "crosses"}.get(scene.object, scene.object + "s")
    return TEMPLATES[scene.template].format(objects=plural, word=scene.word)


def draw(scene: Scene, size_px: int) -> Image.Image:
    """Returns the scene as an RGB picture of size_px by size_px: a pure function of its arguments."""
    side = size_px * _SUPERSAMPLING
    picture = _background(scene, side).convert("RGB")
    silhouette = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(silhouette)
    for x, y, radius in scene.copies:
        outline = [((x + radius * u) * side, (y + radius * v) * side) for u, v in _polygon(scene.object)]
        if scene.style == "outlined":
            pen.line([*outline, outline[0], outline[1]], fill=255, width=max(1, round(side * 0.04)), joint="curve")
        else:
            pen.polygon(outline, fill=255)
    picture.paste(COLOURS[scene.colour], mask=silhouette)
    if scene.style in ("striped", "spotted"):
        marks = _stripes(side, 0.085) if scene.style == "striped" else _spots(side, 0.085)
        shade = tuple(round(0.5 * channel) for channel in COLOURS[scene.colour])
        picture.paste(shade, mask=ImageChops.multiply(silhouette, marks))
    _print_word(picture, scene, side)
    return picture.reduce(_SUPERSAMPLING)


def _sign_corner(scene: Scene) -> tuple[float, float]:
    """Returns the (left, top) of the sign, as fractions of the side."""
    left = _MARGIN if scene.position.endswith("left") else 1 - _MARGIN - _SIGN_WIDTH
    top = _MARGIN if scene.position.startswith("top") else 1 - _MARGIN - _SIGN_HEIGHT
    return left, top


def _place(rng: random.Random, count: int, position: str) -> tuple[tuple[float, float, float], ...]:
    """Returns `count` copies in cells of a 3 x 3 grid, moved a little, none of them in the two cells of the
    sign.
    """
    row = 0 if position.startswith("top") else 2
    columns = (0, 1) if position.endswith("left") else (1, 2)
    cells = [(i, j) for i in range(3) for j in range(3) if not (i == row and j in columns)]
    copies = []
    for i, j in rng.sample(cells, count):
        x, y = (j + 0.5) / 3 + rng.uniform(-0.035, 0.035), (i + 0.5) / 3 + rng.uniform(-0.035, 0.035)
        copies.append((x, y, 0.16 * rng.uniform(0.92, 1.04)))
    return tuple(copies)


@functools.lru_cache(maxsize=16)
def _polygon(name: str) -> list[tuple[float, float]]:
    """Returns the outline of an object in a square from -1 to 1, y downwards."""
    turn = [2 * math.pi * k / 24 for k in range(24)]
    if name == "ball":
        return [(0.92 * math.cos(t), 0.92 * math.sin(t)) for t in turn]
    if name == "heart":  # the usual parametric heart, scaled to the square
        return [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
            )
            for t in turn
        ]
    if name == "moon":
        outer = [
            (math.cos(t) * 0.98 + 0.1, math.sin(t) * 0.98) for t in (math.pi * (0.3 + 1.4 * k / 16) for k in range(17))
        ]
        inner = [
            (math.cos(t) * 0.72 + 0.42, math.sin(t) * 0.72)
            for t in (math.pi * (1.65 - 1.3 * k / 12) for k in range(13))
        ]
        return outer + inner
    if name == "star":
        return [
            (
                (1.0 if k % 2 == 0 else 0.4) * math.sin(math.pi * k / 5),
                -(1.0 if k % 2 == 0 else 0.4) * math.cos(math.pi * k / 5),
            )
            for k in range(10)
        ]
    third = 0.32
    return {
        "box": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
        "tent": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
        "cross": [
            (-third, -1), (third, -1), (third, -third), (1, -third), (1, third), (third, third),
            (third, 1), (-third, 1), (-third, third), (-1, third), (-1, -third), (-third, -third),
        ],
        "arrow": [(0, -1), (0.9, 0.0), (third, 0.0), (third, 1), (-third, 1), (-third, 0.0), (-0.9, 0.0)],
        "hourglass": [(-0.85, -0.95), (0.85, -0.95), (0.12, 0.0), (0.85, 0.95), (-0.85, 0.95), (-0.12, 0.0)],
        "bolt": [(0.15, -1), (-0.75, 0.2), (-0.05, 0.2), (-0.35, 1), (0.75, -0.3), (0.05, -0.3), (0.55, -1)],
    }[name]  # fmt: skip


def _background(scene: Scene, side: int) -> Image.Image:
    """Returns the background in grey, so that the object's colour is the only colour of the picture."""
    first, second = scene.tones
    if scene.background == "plain":
        return Image.new("L", (side, side), first)
    if scene.background == "speckled":
        noise = random.Random(scene.texture).randbytes(_TEXTURE_SIDE**2)
        mask = Image.frombytes("L", (_TEXTURE_SIDE, _TEXTURE_SIDE), noise).resize(
            (side, side), Image.Resampling.NEAREST
        )
    elif scene.background == "gradient":
        mask = Image.linear_gradient("L").resize((side, side))
    elif scene.background == "lined":
        mask = _stripes(side, 0.125, scene.shift, is_diagonal=False)
    elif scene.background == "dotted":
        mask = _spots(side, 0.14, scene.shift)
    else:
        rows = _stripes(side, 0.25, scene.shift, is_diagonal=False)
        mask = ImageChops.difference(rows, rows.transpose(Image.Transpose.ROTATE_90))
    return Image.composite(Image.new("L", (side, side), second), Image.new("L", (side, side), first), mask)


@functools.lru_cache(maxsize=64)
def _stripes(side: int, period: float, shift: float = 0.0, *, is_diagonal: bool = True) -> Image.Image:
    """Returns a mask of stripes, as wide as their gaps, with a period in fractions of the side."""
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    step = period * side
    for k in range(-math.ceil(1 / period) - 2, math.ceil(1 / period) + 2):
        y = (k + shift) * step
        slant = side if is_diagonal else 0
        pen.polygon([(0, y), (side, y + slant), (side, y + slant + step / 2), (0, y + step / 2)], fill=255)
    return mask


@functools.lru_cache(maxsize=64)
def _spots(side: int, period: float, shift: float = 0.0) -> Image.Image:
    """Returns a mask of round spots on a square grid with a period in fractions of the side."""
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    step, radius = period * side, 0.3 * period * side
    for row in range(-1, math.ceil(1 / period) + 1):
        for column in range(-1, math.ceil(1 / period) + 1):
            x, y = (column + shift) * step, (row + shift) * step
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return mask


def _print_word(picture: Image.Image, scene: Scene, side: int) -> None:
    """Puts the sign with the word in its corner."""
    left, top = _sign_corner(scene)
    picture.paste(_sign(scene.word, side), (round(left * side), round(top * side)))


@functools.lru_cache(maxsize=32)
def _sign(word: str, side: int) -> Image.Image:
    """Returns a word in black on a white sign, in the font that Pillow carries."""
    width, height = round(_SIGN_WIDTH * side), round(_SIGN_HEIGHT * side)
    sign = Image.new("RGB", (width, height), (255, 255, 255))
    ImageDraw.Draw(sign).text(
        (width / 2, height / 2),
        word.upper(),
        fill=(0, 0, 0),
        font=ImageFont.load_default(size=round(height * 0.9)),
        anchor="mm",
        stroke_width=side * 0.004,
        stroke_fill=(0, 0, 0),
    )
    return sign
