"""Damage to files: what bits, bytes, lengths and JSON in them may turn into."""

import json
import struct
import zlib

# Values at the edges of types; and texts, containers and numbers where others are expected.
NUMBERS = (
    0,
    1,
    2,
    255,
    (1 << 15) - 1,
    (1 << 16) - 1,
    (1 << 31) - 1,
    1 << 31,
    1 << 63,
    (1 << 64) - 1,
)
VALUES = (
    None, True, [], {}, "", "x", "a\nb", "\x1b[31m", "é" * 3000, "../../x", [[]], [1], {"a": 1}, -1,
    0, 1, 0.5, 3, 255, 10**9, 10**30, -(10**400), 1e308, 5e-324, float("nan"), float("inf"), -0.0,
)  # fmt: skip


def flip(data: bytes, at: int, span: int, number: int) -> bytes:
    """Flip one bit."""
    changed = data[at] ^ (1 << number % 8)
    return data[:at] + bytes([changed]) + data[at + 1 :]


def overwrite(data: bytes, at: int, span: int, number: int) -> bytes:
    """Put bytes that look random, or all alike, over some others."""
    noise = number.to_bytes(8, "big") if number % 3 else bytes([number % 256])
    noise = (noise * (span // len(noise) + 1))[:span]
    return data[:at] + noise + data[at + span :]


def field(data: bytes, at: int, span: int, number: int) -> bytes:
    """Write a number at the edge of its type, as a length field holds it."""
    value, kind = NUMBERS[number % len(NUMBERS)], ">H <H >I <I >Q <Q".split()[number // 16 % 6]
    packed = struct.pack(kind, value & ((1 << 8 * struct.calcsize(kind)) - 1))
    return data[:at] + packed + data[at + len(packed) :]


def truncate(data: bytes, at: int, span: int, number: int) -> bytes:
    """Cut the file short."""
    return data[:at]


def remove(data: bytes, at: int, span: int, number: int) -> bytes:
    """Leave some bytes out."""
    return data[:at] + data[at + span :]


def duplicate(data: bytes, at: int, span: int, number: int) -> bytes:
    """Repeat some bytes where they are."""
    return data[: at + span] + data[at:]


def splice(data: bytes, at: int, span: int, number: int) -> bytes:
    """Copy some bytes over others of the same file."""
    source = number % len(data)
    piece = data[source : source + span]
    return data[:at] + piece + data[at + len(piece) :]


def noise(data: bytes, at: int, span: int, number: int) -> bytes:
    """Put noise after a beginning that may be right."""
    length = number % 4096
    block = zlib.compress(struct.pack(">Q", number))
    return data[: min(at, 64)] + (block * (length // len(block) + 1))[:length]


def text(data: bytes, at: int, span: int, number: int) -> bytes:
    """Change a value, a key or the nesting of JSON: of a whole file, or a header."""
    try:
        if data[8:9] == b"{":
            length = int.from_bytes(data[:8], "little")
            header = _edited(data[8 : 8 + length], at, number)
            return len(header).to_bytes(8, "little") + header + data[8 + length :]
        return _edited(data, at, number)
    except (ValueError, RecursionError):
        return flip(data, at, span, number)


def _edited(data: bytes, at: int, number: int) -> bytes:
    content = json.loads(data)
    if number // 4 % 31 == 0:
        deep = number // 128 % 2
        return b"[" * 100_000 if deep else json.dumps(VALUES[at % len(VALUES)]).encode()
    places = list(_places(content))
    if not places:
        return json.dumps(VALUES[at % len(VALUES)]).encode()
    parent, key = places[at % len(places)]
    value = VALUES[number // 16 % len(VALUES)]
    if isinstance(parent[key], str) and parent[key][:1] in ("[", "{"):  # JSON as text in JSON
        parent[key] = _edited(parent[key].encode(), at, number).decode()
    elif number // 4 % 4 == 0 and isinstance(parent, dict):
        parent[f"{key}\n" if number // 16 % 2 else "other"] = parent.pop(key)
    elif number // 4 % 4 == 1:
        del parent[key]
    elif isinstance(parent[key], str) and _is_number(parent[key]):
        parent[key] = str(value)
    else:
        parent[key] = value
    return json.dumps(content).encode()


def _is_number(word: str) -> bool:
    try:
        return bool(float(word)) or True
    except (ValueError, RecursionError):
        return False


def _places(content):
    """Yield (container, key) of everything inside, a few of long lists."""
    pairs = enumerate(content[:4]) if isinstance(content, list) else ()
    for key, value in list(content.items() if isinstance(content, dict) else pairs):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


OPERATIONS = (flip, overwrite, field, truncate, remove, duplicate, splice, noise, text)


def mutate(data: bytes, steps: list[tuple[int, float, float, int]]) -> bytes:
    """Return damaged bytes; a step is (operation, place and span as shares, a number)."""
    for operation, place, span, number in steps:
        if not data:
            break
        # Headers are short and matter most: half of all places lie in the first 256 bytes.
        end = len(data) if number % 2 else min(256, len(data))
        at = min(int(place * end), len(data) - 1)
        # Damage elsewhere seldom leaves JSON that can be read.
        change = text if number % 4 == 3 and b"{" in data[:9] else OPERATIONS[operation]
        data = change(data, at, 1 + int(span * span * min(len(data), 4096)), number)
    return with_checksums(data) if steps and steps[0][3] % 5 else data


def with_checksums(data: bytes) -> bytes:
    """Return a PNG whose checksums are right again, so that damage gets past them."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    done, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        done += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return done + data[at:]
