"""Valid cache files, and ways to damage and forge them: what `fuzz_cache.py` reads.

Each way is a function of a valid file and a random generator. It returns the bytes of another file.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import CODECS, StorageSettings
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter

Images = NDArray[np.uint8]
Random = np.random.Generator
FIELDS, HEIGHT, WIDTH = 6, 18, 24
HUGE = (0, 1, 2, 5, 7, 255, 256, 32767, 32768, 65535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
NAMES = (
    "../../../../tmp/evil", "/etc/passwd", "C:\\evil", "C:evil", "..\\..\\evil", "flow/../../evil", "flow/\0.png",
    "flow/00000.png\0.jls", "flow//00000.png", "./flow/00000.png", "flow/0000\u0660.png", "flow/-0001.png",
    "flow/000000.png", "flow/00000.PNG", "FLOW/00000.png", "rgb/../flow/00000.png", "meta.json", "flow/", "",
    "\n", "flow/99999.png", "flow/00001.png" + " " * 60_000, "\u202egnp.00000/wolf", "aux", "con.png",
)  # fmt: skip


@dataclass(frozen=True)
class Original:
    """A valid cache file, and what is in it."""

    data: bytes
    flow: Images
    rgb: Images | None
    members: dict[str, bytes]
    grid: int


def originals(folder: Path) -> list[Original]:
    """Write one small file for every codec, without RGB, with frames of the fields' size, and of their own."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-2, 3, (FIELDS, 2, HEIGHT, WIDTH)), axis=3) + 128
    small = rng.integers(0, 256, (FIELDS + 1, HEIGHT, WIDTH, 3), np.uint8)
    large = rng.integers(0, 256, (FIELDS + 1, 37, 29, 3), np.uint8)
    written = []
    for codec in CODECS:
        for frames, side in ((None, None), (small, None), (large, 30)):
            path = folder / "original.flow.zip"
            settings = StorageSettings(codec, rgb=frames is not None, rgb_short_side=side)
            meta = CacheMeta(Source("a/b.avi", 7, "00"), "tvl1", {"tau": 0.25, "warps": 5}, storage=settings)
            with CacheWriter(path, meta) as writer:
                writer.add_flow(np.clip(smooth, 0, 255).astype(np.uint8))
                if frames is not None:
                    writer.add_rgb(frames)
            with CacheReader(path) as reader, zipfile.ZipFile(path) as archive:
                colours = reader.rgb(range(FIELDS + 1)) if reader.has_rgb else None
                members = {name: archive.read(name) for name in archive.namelist()}
                written.append(
                    Original(path.read_bytes(), reader.flow(range(FIELDS)), colours, members, settings.grid)
                )
            path.unlink()
    return written


def flip_bits(original: Original, rng: Random) -> bytes:
    """Flip one to eight bits, often near the end, where the directory is."""
    data = bytearray(original.data)
    for _ in range(rng.integers(1, 9)):
        reach = len(data) if rng.random() < 0.6 else min(len(data), 1500)
        data[len(data) - 1 - rng.integers(reach)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def overwrite(original: Original, rng: Random) -> bytes:
    """Put zeros, ones or noise over a stretch."""
    data = bytearray(original.data)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    length = min(length, len(data) - start)
    data[start : start + length] = [b"\0" * length, b"\xff" * length, rng.bytes(length)][rng.integers(3)]
    return bytes(data)


def cut(original: Original, rng: Random) -> bytes:
    """Cut the end off, or all before the last bytes."""
    place = int(rng.integers(len(original.data)))
    if rng.random() < 0.3:
        return original.data[:place] + original.data[-22:]
    return original.data[:place] if rng.random() < 0.7 else original.data[place:]


def shift(original: Original, rng: Random) -> bytes:
    """Put bytes in, take some out, or put two files together."""
    data = original.data
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 300))
    choice = rng.integers(4)
    if choice == 0:
        return data[:place] + rng.bytes(length) + data[place:]
    if choice == 1:
        return data[:place] + data[place + length :]
    return data + data if choice == 2 else rng.bytes(length) + data


def edit_record(original: Original, rng: Random) -> bytes:
    """Put an extreme value into one field of the directory, a local header or the end record."""
    data = bytearray(original.data)
    kinds = ((b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22))
    signature, length = kinds[rng.integers(len(kinds))]
    places = [place for place in range(len(data) - length + 1) if data[place : place + 4] == signature]
    place = places[rng.integers(len(places))]
    width = int(rng.choice([2, 4]))
    value = int(rng.choice(HUGE)) & ((1 << 8 * width) - 1)
    at = place + 4 + 2 * int(rng.integers((length - 4 - width) // 2 + 1))
    data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


def forge_end(original: Original, rng: Random) -> bytes:
    """Announce absurd numbers of members, sizes and offsets, as a 64-bit record or as a plain one."""
    body, end = original.data[:-22], original.data[-22:]
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", end)
    values = [count, size, offset]
    for _ in range(rng.integers(1, 4)):
        value = int(rng.choice([*HUGE, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1]))
        values[rng.integers(3)] = value or (1 << 64) - 1
    plain = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    if rng.random() < 0.5:
        values = [*map(min, values, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))]
        return body + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, values[0], values[0], *values[1:], 0)
    record = struct.pack("<4sQ2H2L2Q2Q", b"PK\6\6", 44, 45, 45, 0, 0, values[0], values[0], *values[1:])
    at = int(rng.choice([len(body), len(body), 0, len(body) + 1, 1 << 40, (1 << 63) - 1]))
    return body + record + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1) + plain


def pack(members: list[tuple[str, bytes]], deflate: bool = False) -> bytes:
    """Write members, also several of one name, as any tool would."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name or "x")
            info.filename = name  # as it is: ZipInfo would end it at a NUL
            info.compress_type = archive.compression
            if name in archive.NameToInfo:
                archive.NameToInfo.pop(name)  # or it would warn
            archive.writestr(info, data)
    return buffer.getvalue()


def hostile_value(rng: Random) -> Any:
    """Choose something that a number or a text in JSON could be instead."""
    values: list[Any] = [
        *HUGE, -1, -(1 << 31), 1 << 40, 1 << 63, 10**300, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, None,
        "", "x", "../../evil", "C:\\evil", "\0", "1" * 5000, [], [1], [5, 5], {}, {"a": 1},
        *CODECS,
    ]  # fmt: skip
    return values[rng.integers(len(values))]


def edit_meta(original: Original, rng: Random) -> bytes:
    """Put hostile values into `meta.json`, checksums right."""
    members = dict(original.members)
    document = json.loads(members["meta.json"])
    for _ in range(rng.integers(1, 4)):
        names = [*document, "width", "height", "frames", "fields", "step", "unknown"]
        name = names[rng.integers(len(names))]
        if rng.random() < 0.1:
            document.pop(name, None)
        else:
            document[name] = hostile_value(rng)
    text = json.dumps(document).encode()
    if rng.random() < 0.1:
        junk = [b"[" * 200_000, b"{}", b"", b"\xff\xfe", b'{"format":' * 50_000, b" " * 1_100_000, text[:-5]]
        text = junk[rng.integers(len(junk))]
    return pack([*(members | {"meta.json": text}).items()])


def rename(original: Original, rng: Random) -> bytes:
    """Give a member a name that leads elsewhere, or add one of such a name."""
    members = [*original.members.items()]
    place = int(rng.integers(len(members)))
    # under its own name it would be a valid file
    names = [name for name in NAMES if name != members[place][0]]
    name = names[rng.integers(len(names))]
    if rng.random() < 0.5:
        members[place] = (name, members[place][1])
    else:
        members.insert(place, (name, members[place][1]))
    return pack(members)


def duplicate(original: Original, rng: Random) -> bytes:
    """Let a member come twice, beside or instead of another."""
    members = [*original.members.items()]
    place, other = (int(number) for number in rng.choice(len(members), 2, replace=False))
    if rng.random() < 0.5:
        members[other] = (members[place][0], members[other][1])
    else:
        members.insert(other, members[place])
    return pack(members)


def shuffle(original: Original, rng: Random) -> bytes:
    """Write the members in another order, `meta.json` still first: nothing is wrong with that."""
    first, *others = original.members.items()
    return pack([first, *(others[place] for place in rng.permutation(len(others)))])


def deflate_bomb(original: Original, rng: Random) -> bytes:
    """Store members deflated, one of them a hundredth of what it announces."""
    members = [*original.members.items()]
    place = int(rng.integers(len(members)))
    members[place] = (members[place][0], b"\0" * int(rng.integers(1 << 10, 1 << 20)))
    return pack(members, deflate=True)


def absurd_image(original: Original, rng: Random) -> bytes:
    """Announce absurd dimensions in an image's header, and often the same in `meta.json`."""
    return pack([*_announce(original, rng, [1, 24, 4096, 20_000, 32767, 65535], 0.8).items()])


def starve_image(original: Original, rng: Random) -> bytes:
    """Announce images that fit into memory, but need more data than there are; often the data are damaged too."""
    members = _announce(original, rng, [25, 100, 500, 1000, 2000, 4096], 1.0)
    for name in [] if rng.random() < 0.5 else [*members][1:]:
        data = members[name]
        start = int(rng.integers(60, len(data)))  # a header of JPEG-LS is that long
        members[name] = (
            data[:start] + rng.bytes(int(rng.integers(500))) + data[rng.integers(start, len(data)) - 2 :]
        )
    return pack([*members.items()])


def _announce(original: Original, rng: Random, sides: list[int], chance: float) -> dict[str, bytes]:
    """Write another size into each image's header and into `meta.json`, or leave it as it is."""
    members = dict(original.members)
    document = json.loads(members["meta.json"])
    width, height = (int(side) for side in rng.choice(sides, 2))
    if rng.random() < chance:
        own = {"rgb_size": [width, height]} if "rgb_size" in document else {}
        members["meta.json"] = json.dumps(document | {"width": width, "height": height} | own).encode()
    for name, data in members.items():
        if name != "meta.json" and rng.random() < chance:
            members[name] = _with_size(data, width, 2 * height if name.startswith("flow") else height)
    return members


def _with_size(data: bytes, width: int, height: int) -> bytes:
    if data[:4] == b"\x89PNG":
        header = data[12:16] + struct.pack(">2L", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">L", zlib.crc32(header)) + data[33:]
    if data[:4] == b"\x28\xb5\x2f\xfd":  # Zstandard, which announces bytes
        start = 5 + (not data[4] & 0x20)
        length = (data[4] >> 5 & 1, 2, 4, 8)[data[4] >> 6]
        size = struct.pack("<Q", len(f"P5 {width} {height} 255\n") + width * height)
        return data[:4] + bytes([data[4] | 0xC0]) + data[5:start] + size + data[start + length :]
    if data[:2] == b"\xff\x0a":  # JPEG XL, whose header is made of bits
        old = int.from_bytes(data[2:], "little")
        assert old & 7 == old >> 15 & 3 == 0, "two sides of 9 bits"
        # With 13 bits a side all that follows moves by one byte, and stays where a byte begins.
        bits = 1 << 1 | min(height - 1, 8191) << 3 | 1 << 19 | min(width - 1, 8191) << 21
        return data[:2] + (bits | old >> 26 << 34).to_bytes(len(data) - 1, "little")
    position = 2
    while data[position + 1] not in (0xF7, 0xC0, 0xC1, 0xC2):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    size = struct.pack(">2H", height & 0xFFFF, width & 0xFFFF)
    return data[: position + 5] + size + data[position + 9 :]


def forge_image(original: Original, rng: Random) -> bytes:
    """Damage an image and give it a right checksum, so that only the decoder can notice."""
    members = dict(original.members)
    names = [name for name in members if name != "meta.json"]
    name = names[rng.integers(len(names))]
    data = bytearray(members[name])
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] = int(rng.integers(256))
    if rng.random() < 0.3:
        data = data[: rng.integers(1, len(data))] + (b"" if rng.random() < 0.5 else b"\xff\xd9")
    return pack([*(members | {name: bytes(data)}).items()])


Case = Callable[[Original, Random], bytes]
DAMAGED: tuple[Case, ...] = (
    flip_bits, overwrite, cut, shift, edit_record, forge_end, edit_meta, rename, duplicate, shuffle, deflate_bomb,
)  # fmt: skip
FORGED: tuple[Case, ...] = (absurd_image, starve_image, forge_image)  # checksums right, contents wrong
ALWAYS_REFUSED: tuple[Case, ...] = (rename, duplicate, deflate_bomb)
