"""What the tests of ingest accept, unless they say otherwise."""

from components.core.data.ingest import Limits

LIMITS = Limits(
    image_size_px=64,
    min_side_px=8,
    max_aspect=4.0,
    max_pixels=10**6,
    jpeg_quality=90,
    animated="first_frame",
    max_caption_characters=100,
    min_caption_characters=1,
    caption_fallback_encoding="",
    caption_language="",
)
