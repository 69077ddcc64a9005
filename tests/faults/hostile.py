"""Files that mean harm, or that a disk has damaged: made here byte by byte, since no library writes them."""

import random
import struct
import zlib
from collections.abc import Callable

from tests.faults.room import dicom_image, png_image

RT_IMAGE = b"1.2.840.10008.5.1.4.1.1.481.1"
EXPLICIT, DEFLATED, RLE = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.5"
JPEG_LOSSLESS, JPEG_2000 = b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.90"
LONG = {b"OB", b"OW", b"SQ", b"UN"}
WITHOUT_END = 0xFFFFFFFF
ITEM_END, SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def item(length: int = WITHOUT_END) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return an explicit little-endian element, whose ``length`` may lie."""
    value += (b"\0" if vr in {b"UI", b"OB"} else b" ") * (len(value) % 2)
    length = len(value) if length is None else length
    if vr in LONG:
        return struct.pack("<HH2sHI", group, number, vr, 0, length) + value
    return struct.pack("<HH2sH", group, number, vr, length) + value


def short(value: int) -> bytes:
    return struct.pack("<H", value)


def head(syntax: bytes = EXPLICIT) -> bytes:
    """Return preamble and file meta information."""
    meta = element(2, 2, b"UI", RT_IMAGE) + element(2, 3, b"UI", b"1.2.3.4") + element(2, 0x10, b"UI", syntax)
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta


def body(
    rows: int = 64, columns: int = 64, pixel_data: bytes | None = None, extra: bytes = b"", bits: int = 16
) -> bytes:
    """Return a data set of an image; ``extra`` stands before the group of the image."""
    if pixel_data is None:
        pixel_data = element(0x7FE0, 0x10, b"OW", random.Random(1).randbytes(rows * columns * 2))
    return b"".join(
        (
            element(8, 0x16, b"UI", RT_IMAGE),
            element(8, 0x18, b"UI", b"1.2.3.4"),
            element(8, 0x60, b"CS", b"RTIMAGE"),
            extra,
            element(0x28, 2, b"US", short(1)),
            element(0x28, 4, b"CS", b"MONOCHROME2"),
            element(0x28, 0x10, b"US", short(rows)),
            element(0x28, 0x11, b"US", short(columns)),
            element(0x28, 0x100, b"US", short(bits)),
            element(0x28, 0x101, b"US", short(bits)),
            element(0x28, 0x102, b"US", short(bits - 1)),
            element(0x28, 0x103, b"US", short(0)),
            pixel_data,
        )
    )


def encapsulated(*fragments: bytes) -> bytes:
    items = b"".join(item(len(fragment)) + fragment for fragment in (b"", *fragments))
    return element(0x7FE0, 0x10, b"OB", b"", WITHOUT_END) + items + SEQUENCE_END


def deflate_bomb(gigabytes: float) -> bytes:
    """Return a small file that inflates to so many GB of zeros."""
    size = int(gigabytes * 2**30) & ~1
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = body(pixel_data=struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size))
    began = deflater.compress(start) + deflater.flush(zlib.Z_FULL_FLUSH)
    megabyte = deflater.compress(bytes(2**20)) + deflater.flush(zlib.Z_FULL_FLUSH)  # stands alone: can be repeated
    return head(DEFLATED) + began + megabyte * (size >> 20) + deflater.flush()


def rle_bomb(side: int) -> bytes:
    """Return an image of ``side`` px each way whose runs say 128 bytes with two."""
    coded = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\x00" * (side * side // 128 + 1)
    return head(RLE) + body(side, side, encapsulated(coded + bytes(len(coded) % 2)), bits=8)


def nested(depth: int) -> bytes:
    """Return a sequence in a sequence in a sequence."""
    opening = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, WITHOUT_END) + item()
    return head() + body(extra=opening * depth + (ITEM_END + SEQUENCE_END) * depth)


def png_bomb(side: int) -> bytes:
    """Return a PNG of zeros, ``side`` px each way, some hundred times smaller than what it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deflater, line = zlib.compressobj(9), bytes(2 * side + 1)
    packed = b"".join(deflater.compress(line) for _ in range(side)) + deflater.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def many_items(number: int) -> bytes:
    opening = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, WITHOUT_END)
    return head() + body(extra=opening + item(0) * number + SEQUENCE_END)


def many_elements(number: int) -> bytes:
    tags = ((0x1001 + 2 * (i // 60_000), 0x1000 + i % 60_000) for i in range(number))
    return head() + body(pixel_data=b"") + b"".join(element(*tag, b"LO", b"ab") for tag in tags)


def lying(length: int) -> bytes:
    return head() + body(pixel_data=element(0x7FE0, 0x10, b"OW", bytes(100), length))


CASES: dict[str, Callable[[], bytes]] = {
    "an empty file": lambda: b"",
    "one byte": lambda: b"D",
    "random bytes": lambda: random.Random(1).randbytes(2**20),
    "a preamble only": lambda: bytes(128) + b"DICM",
    "a head only": head,
    "no preamble": body,
    "half of an image": lambda: dicom_image(1)[: len(dicom_image(1)) // 2],
    "one byte less": lambda: dicom_image(1)[:-1],
    "pixel data without a length": lambda: lying(0xFFFFFFFE),
    "pixel data far too short": lambda: lying(100),
    "a private element of 3.9 GB": lambda: head() + body(extra=element(9, 0x1001, b"OB", b"x", 0xE8000000)),
    "65535 x 65535 with 100 bytes": lambda: head() + body(65535, 65535, element(0x7FE0, 0x10, b"OW", bytes(100))),
    "no rows": lambda: head() + body(0, 64, element(0x7FE0, 0x10, b"OW", b"")),
    "no pixel data": lambda: head() + body(pixel_data=b""),
    "an RLE bomb within the limit of pixels": lambda: rle_bomb(8192),
    "an RLE bomb of 30000 x 30000": lambda: rle_bomb(30_000),
    "a deflate bomb of 64 MB": lambda: deflate_bomb(1 / 16),
    "a deflate bomb of 3.9 GB": lambda: deflate_bomb(3.9),
    "a PNG bomb of 8192 x 8192": lambda: png_bomb(8192),
    "a PNG bomb of 16384 x 16384": lambda: png_bomb(16384),
    "sequences 100 deep": lambda: nested(100),
    "sequences 1000 deep": lambda: nested(1000),
    "sequences 100,000 deep": lambda: nested(100_000),
    "a million empty items": lambda: many_items(1_000_000),
    "600,000 private elements": lambda: many_elements(600_000),
    "a VR that does not exist": lambda: head() + element(8, 0x60, b"ZZ", b"xx") + body(),
    "numbers that are none": lambda: head() + body(extra=element(0x3002, 0x26, b"DS", b"1e99999\\NaN\\x")),
    "a character set from elsewhere": lambda: head() + element(8, 5, b"CS", b"ISO_IR 999\\..\\..") + body(),
    "an ELF file with an image behind it": lambda: b"\x7fELF" + dicom_image(1)[4:],
    "JPEG 2000 that is none": lambda: head(JPEG_2000) + body(),
    "an empty JPEG": lambda: head(JPEG_LOSSLESS) + body(pixel_data=encapsulated(b"")),
}


def seeds() -> list[bytes]:
    """Return the images that fuzzing begins from."""
    run = b"".join(b"\x7f" + random.Random(row).randbytes(128) for row in range(32))  # RLE: 128 literal bytes
    coded = struct.pack("<16I", 1, 64, *([0] * 14)) + run
    rle = head(RLE) + body(64, 64, encapsulated(coded + bytes(len(coded) % 2)), bits=8)
    return [dicom_image(1), head() + body(), head() + body(extra=nested(3)[400:600]), rle, png_image(1)]


LENGTHS = (b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f")


def fuzzed(number: int, images: list[bytes]) -> bytes:
    """Return the fuzzed file of that number: the same one in every run, so that a run can be done in slices."""
    chance = random.Random(number)
    data = bytearray(chance.choice(images))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if len(data) < 140:
            break
        _spoil(data, chance)
    return bytes(data)


def _spoil(data: bytearray, chance: random.Random) -> None:
    way, at = chance.random(), chance.randrange(0, min(len(data), 1_200))
    if way < 0.5:
        data[at] = chance.randrange(256)
    elif way < 0.7:
        data[at : at + 4] = chance.choice(LENGTHS)
    elif way < 0.8:
        del data[at : at + chance.randrange(1, 9)]
    elif way < 0.9:
        data[at:at] = chance.randbytes(chance.randrange(1, 9))
    else:
        del data[at + chance.randrange(len(data) - at) :]
