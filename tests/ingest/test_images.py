from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_pipeline.ingest import images
from ssl_pipeline.ingest.images import BadSample, decode, sample_id, to_square


def gradient(mode: str = "RGB") -> Image.Image:
    values = np.linspace(0, 255, 12 * 10 * 3).reshape(10, 12, 3).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("kind, options", [
    ("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
    ("JPEG", {"quality": 95}),
])  # fmt: skip
def test_every_format_gives_its_pixels(encode, kind, options):
    image = decode(encode(gradient(), kind, **options))
    assert image.mode == "RGB" and image.size == (12, 10)
    tolerance = 12 if kind == "JPEG" else 0
    assert np.abs(np.asarray(image).astype(int) - np.asarray(gradient())).max() <= tolerance


def test_an_animation_gives_its_first_frame(encode):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode(red, kind, save_all=True, append_images=[blue])
        red_pixel = decode(data).getpixel((0, 0))
        assert np.abs(np.subtract(red_pixel, (255, 0, 0))).max() <= 1, kind


def test_grey_stays_grey_unless_channels_says_otherwise(encode):
    data = encode(gradient("L"))
    assert decode(data).mode == "L"
    assert decode(data, channels=3).mode == "RGB"
    assert decode(encode(gradient()), channels=1).mode == "L"


@pytest.mark.parametrize("dtype, mode", [("<u2", "I;16"), (">u2", "I;16B"), ("<i4", "I")])
def test_16_bit_is_divided_by_257(encode, dtype, mode):
    values = np.array([[0, 128, 129], [257, 32768, 65535]])
    if mode == "I;16B":  # no writer for it in Pillow: a TIFF by hand
        pixels = values.astype(dtype).tobytes()
        tags = [
            (256, 3, 3),
            (257, 3, 2),
            (258, 3, 16),
            (259, 3, 1),
            (262, 3, 1),
            (273, 3, 98),
            (277, 3, 1),
            (278, 3, 2),
            (279, 3, 12),
        ]
        fields = b"".join(struct.pack(">HHIHH", tag, kind, 1, value, 0) for tag, kind, value in tags)
        assert 8 + 2 + len(fields) + 4 <= 122
        header = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + fields + struct.pack(">I", 0)
        data = (
            header.replace(struct.pack(">HHIHH", 273, 3, 1, 98, 0), struct.pack(">HHIHH", 273, 3, 1, len(header), 0))
            + pixels
        )
    else:
        data = encode(Image.fromarray(values.astype(dtype)), "TIFF")
    assert Image.open(BytesIO(data)).mode == mode
    image = decode(data)
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 0, 1], [1, 128, 255]]


def test_16_bit_png(encode):
    data = encode(Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)))
    assert np.asarray(decode(data)).tolist() == [[0, 255]]


@pytest.mark.parametrize("values, expected", [
    ([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([0.0, 257.0, 65535.0], [0, 1, 255]),
])  # fmt: skip
def test_float_scales_are_fixed(encode, values, expected):
    data = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert np.abs(np.asarray(decode(data)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan")])
def test_an_unknown_scale_is_refused(encode, value):
    data = encode(Image.fromarray(np.array([[0.0, value]], dtype=np.float32)), "TIFF")
    with pytest.raises(BadSample, match="unknown scale"):
        decode(data)


def test_one_bit_palette_and_cmyk(encode):
    bits = Image.new("1", (3, 1))
    bits.putpixel((1, 0), 1)
    assert np.asarray(decode(encode(bits))).tolist() == [[0, 255, 0]]
    assert decode(encode(Image.new("RGB", (2, 2), (10, 200, 30)).quantize(4))).getpixel((0, 0)) == (10, 200, 30)
    cmyk = decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert cmyk.mode == "RGB" and cmyk.getpixel((4, 4))[0] > 240 and cmyk.getpixel((4, 4))[1] < 15


def test_alpha_is_composited_on_white(encode):
    assert decode(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 255)))).getpixel((0, 0)) == (255, 0, 0)
    grey = decode(encode(Image.new("LA", (2, 2), (0, 51))))
    assert grey.mode == "L" and grey.getpixel((0, 0)) == 204
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    assert np.asarray(decode(encode(palette, transparency=0))).tolist() == [[[255] * 3, [9] * 3]]
    assert decode(encode(Image.new("L", (1, 1), 7), transparency=7)).getpixel((0, 0)) == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(encode, kind, turn):
    upright = Image.new("L", (32, 16))
    upright.paste(255, (0, 0, 8, 8))
    inverse = {6: 8, 8: 6}.get(turn, turn)  # the stored image is the upright one, turned the other way
    stored = upright.transpose(images.UPRIGHT[inverse]) if turn > 1 else upright
    exif = Image.Exif()
    exif[images.ORIENTATION] = turn
    options = {"tiffinfo": {images.ORIENTATION: turn}} if kind == "TIFF" else {"exif": exif}
    image = decode(encode(stored, kind, **options), channels=1)
    assert image.size == (32, 16)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).max() < 60


def test_garbled_exif_does_not_cost_the_image(encode):
    assert decode(encode(gradient(), "JPEG", exif=b"Exif\0\0garbage that is no TIFF")).size == (12, 10)


def test_reasons_for_bad_bytes(encode):
    whole = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    for data, reason in [
        (b"", "empty file"),
        (b"a note to myself", "not an image"),
        (b"%PDF-1.7 ...", "not an image"),
        (whole[: len(whole) // 2], "damaged JPEG: .*truncated"),
        (whole[:8], "damaged JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged or unsupported PNG"),
        (encode(gradient())[:60], "damaged PNG"),
    ]:
        with pytest.raises(BadSample, match=reason):
            decode(data)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


@pytest.mark.parametrize("width, height", [(10_001, 10_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, width, height):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadSample, match="oversized"):
        decode(png_header(width, height))


@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_and_filters_are_left_alone(encode):
    import warnings

    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    decode(encode(gradient()))
    with pytest.raises(BadSample, match="truncated|damaged"):
        decode(png_header(9_999, 9_999))  # between Pillow's limit and ours: no warning, and then no pixels
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters) == (limit, filters)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(images.FORMATS)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12)
)
def test_flipped_bytes_give_an_image_or_a_reason(kind, flips):
    file = BytesIO()
    gradient().save(file, kind)
    data = bytearray(file.getvalue())
    for place, value in flips:
        data[place % len(data)] = value
    try:
        image = decode(bytes(data))
    except BadSample as reason:
        assert "\n" not in str(reason) and str(reason)
    else:
        assert image.mode in ("L", "RGB")


def test_to_square_cuts_the_centre_and_keeps_pixels_of_the_same_size():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    square = to_square(image, 10, 3)
    assert square.shape == (3, 10, 10) and square.dtype == np.uint8
    assert (square[2] == 255).all() and (square[0] == 0).all()
    values = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert (to_square(Image.fromarray(values), 28, 1)[0] == values).all()


def test_to_square_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(to_square(Image.fromarray(stripes), 16, 1)[0, :, 2:-2].astype(int)) < 20


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_to_square_has_the_shape_asked_for(width, height, side, channels):
    assert to_square(Image.new("RGB", (width, height)), side, channels).shape == (channels, side, side)


def test_sample_id_is_of_the_pixels(encode):
    image = gradient()
    png, bmp = decode(encode(image)), decode(encode(image, "BMP"))
    assert sample_id(png) == sample_id(bmp) and len(sample_id(png)) == 32
    flat, tall = Image.new("L", (4, 2)), Image.new("L", (2, 4))
    assert len({sample_id(i) for i in (flat, tall, flat.convert("RGB"), image)}) == 4
