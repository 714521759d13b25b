"""Damage to files: of their bytes, of their text, and of what their format holds."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator

NUMBERS = (0, 1, -1, 2**31 - 1, 2**32 - 1, 10**12, 2**63 - 1, float("nan"), float("inf"), 1e300)
WORDS = (
    *map(str, NUMBERS), "1e999", "9" * 5000, "", "-", "<>", "null", "true", '"', "\0", "\udcff",
    "../../x", "@9999999*(0)", "( 99999999, 99999999 )", "[" * 20_000, '{"a":' * 20_000, "a b",
)  # fmt: skip
"""What takes the place of a number or a word in a text."""

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    + "]><ismrmrdHeader>&a12;</ismrmrdHeader>"
)
"""XML that expands to 10^12 characters."""


def flip(content: bytes, rng: Generator, _: bytes) -> bytes:
    """Bits, mostly of the beginning or the end, where headers are."""
    damaged = bytearray(content)
    for _ in range(int(rng.choice([1, 2, 5, 20]))):
        near = int(min(len(content), 2 ** rng.uniform(3, 13)))
        place = int(rng.integers(near if rng.random() < 0.8 else len(content)))
        place = len(content) - 1 - place if rng.random() < 0.2 else place
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut(content: bytes, rng: Generator, _: bytes) -> bytes:
    """Anywhere, or shortly after the beginning or before the end."""
    kept = int(rng.choice([rng.integers(len(content)), rng.integers(min(len(content), 300))]))
    return content[: kept if rng.random() < 0.7 else len(content) - kept]


def splice(content: bytes, rng: Generator, other: bytes) -> bytes:
    """A stretch of another file, instead of one of this or between."""
    length = int(min(2 ** rng.uniform(2, 14), len(other)))
    start, place = int(rng.integers(len(other) - length + 1)), int(rng.integers(len(content)))
    rest = place + (length if rng.random() < 0.6 else 0)
    return content[:place] + other[start : start + length] + content[rest:]


def promise(content: bytes, rng: Generator, _: bytes) -> bytes:
    """A number of two to eight bytes becomes an extreme one."""
    form, value = rng.choice(["<H", "<I", "<Q", ">I", "<f", "<d"]), rng.choice(NUMBERS)
    if form[1] in "HIQ":
        size = 8 * struct.calcsize(form)
        value = (int(value) if np.isfinite(value) else -1) % 2**size
    with np.errstate(over="ignore"):
        number = np.float32(value) if form == "<f" else value
    packed = struct.pack(form, number)
    near = len(content) if rng.random() < 0.3 else min(len(content), 2048)
    place = int(rng.integers(near)) // 2 * 2
    return (content[:place] + packed + content[place + len(packed) :])[: len(content)]


def overwrite(content: bytes, rng: Generator, _: bytes) -> bytes:
    """A stretch becomes noise, zeros, or is repeated."""
    place, length = int(rng.integers(len(content))), int(2 ** rng.uniform(2, 10))
    stretch = rng.bytes(length) if rng.random() < 0.5 else bytes(length)
    if rng.random() < 0.2:
        return content[: place + length] + content[place:]
    return content[:place] + stretch + content[place + length :]


def empty(content: bytes, rng: Generator, _: bytes) -> bytes:
    """Nothing, or next to nothing."""
    return content[: int(rng.choice([0, 0, 1, 8]))]


def reword(content: bytes, rng: Generator, _: bytes) -> bytes:
    """Words and numbers of a text become others."""
    return reword_text(content.decode("latin-1"), rng).encode("utf-8", "surrogateescape")


def reword_text(text: str, rng: Generator) -> str:
    for _ in range(int(rng.choice([1, 1, 3]))):
        words = list(re.finditer(r"-?\d[\d.e+-]*|\w+|[(<\[{]", text[:100_000]))
        if words:
            word = words[int(rng.integers(len(words)))]
            other = words[int(rng.integers(len(words)))][0]
            new = other if rng.random() < 0.2 else str(rng.choice(WORDS))
            text = text[: word.start()] + new + text[word.end() :]
    return text


Damage = Callable[[bytes, Generator, bytes], bytes]
OF_BYTES: tuple[Damage, ...] = (flip, flip, cut, splice, promise, promise, overwrite, empty)


def damage_h5(path: Path, rng: Generator) -> None:
    """A dataset, group or attribute becomes another, or is gone."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        found: Any = file[rng.choice(names)] if names and rng.random() < 0.8 else file
        if len(found.attrs) and rng.random() < 0.7:
            name = str(rng.choice(list(found.attrs)))
            value = _other_attribute(found.attrs[name], rng)
            del found.attrs[name]
            if value is not None:
                found.attrs[name] = value
        elif found.name != "/":
            _replace_entry(file, found.name, rng)


def _other_attribute(value: object, rng: Generator) -> object:
    if isinstance(value, str) and rng.random() < 0.6:
        return reword_text(value, rng).replace("\0", "").encode("utf-8", "replace")
    if isinstance(value, np.ndarray) and rng.random() < 0.5:
        return value.ravel()[: int(rng.integers(value.size))]
    numbers = [np.float64(n) if abs(n) > 2**62 else n for n in NUMBERS if n == n]
    others = [*numbers, np.nan, "x", b"\xff\xfe", h5py.Empty("f4"), [1, 2], ["a", "b"], None]
    return others[int(rng.integers(len(others)))]


def _replace_entry(file: h5py.File, name: str, rng: Generator) -> None:
    entry = file[name]
    text = entry[()] if isinstance(entry, h5py.Dataset) and entry.dtype.kind in "OS" else None
    values = entry[()] if isinstance(entry, h5py.Dataset) and entry.dtype.kind in "cfiub" else None
    shape = getattr(entry, "shape", None) or (2,)
    dtype = getattr(entry, "dtype", np.dtype("c8"))
    del file[name]
    if isinstance(text, (bytes, str)) and rng.random() < 0.8:
        text = text.decode("latin-1") if isinstance(text, bytes) else text
        chosen = BOMB if rng.random() < 0.05 else reword_text(text, rng)
        file[name] = chosen.replace("\0", "").encode("utf-8", "replace")
        return
    if values is not None and values.size and rng.random() < 0.4:
        _change_values(values, rng)
        file[name] = values
        return
    how = int(rng.integers(11))
    if how == 0:
        file[name] = h5py.SoftLink(name)
    elif how == 1:
        file[name] = file["/"]
    elif how == 2:
        file[name] = h5py.ExternalLink(Path(file.filename).name, name)
    elif how == 3:
        file.create_group(name)[Path(name).name] = file["/"]
    elif how == 4:
        huge = tuple(int(n * rng.choice([1, 10**4, 10**6])) for n in shape)
        file.create_dataset(name, huge, dtype, chunks=tuple(min(n, 64) for n in shape))
    elif how == 5:
        _write_bomb(file, name, shape, dtype)
    elif how == 6:
        file[name] = np.zeros(shape[: int(rng.integers(len(shape) + 1))], "f4")
    elif how == 7:
        file[name] = np.ones((*shape, 2) if rng.random() < 0.5 else shape[::-1], "c8")
    elif how == 8:
        file[name] = h5py.Empty("c8")
    elif how == 9:
        file[name] = "text"


def _change_values(values: np.ndarray[Any, Any], rng: Generator) -> None:
    """Some or all numbers become extreme."""
    with np.errstate(all="ignore"):
        new = np.array(rng.choice(NUMBERS)).astype(values.dtype)
    if rng.random() < 0.5:
        values[...] = new
    else:
        values.flat[int(rng.integers(values.size))] = new


def _write_bomb(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A dataset of 6 GiB of zeros in 6 MiB of file; one slice of it is as large."""
    if not shape or dtype.kind == "O":
        return
    rest = [min(n, 16) for n in shape[1:]]
    inner = max(1, int(np.prod(rest)) * dtype.itemsize)
    n_last = -(-(2**26) // inner)  # numbers along the last axis that make 64 MiB
    last = (rest[-1] if rest else 1) * n_last
    chunk = (1, *rest[:-1], last) if rest else (last,)
    sizes = (1, *rest[:-1], 96 * last) if rest else (96 * last,)
    data = file.create_dataset(name, sizes, dtype, chunks=chunk, compression="gzip")
    packed = _packed_zeros(int(np.prod(chunk)) * dtype.itemsize)
    for i in range(96):
        data.id.write_direct_chunk((*[0] * (len(sizes) - 1), i * last), packed)


@lru_cache
def _packed_zeros(n_bytes: int) -> bytes:
    return zlib.compress(bytes(n_bytes), 9)


def damage_json(content: Any, rng: Generator) -> Any:
    """An entry, however deep, becomes another, or is gone."""
    if isinstance(content, (dict, list)) and content and rng.random() < 0.85:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.1:
            del content[key]
        else:
            content[key] = damage_json(content[key], rng)
        return content
    if isinstance(content, str) and rng.random() < 0.3:
        return reword_text(content, rng)[:1000]
    others = [*NUMBERS, None, True, "", "x", [], {}, [1, 2], {"a": 1}, [[[]]], "../../x"]
    return others[int(rng.integers(len(others)))]


def damage_safetensors(content: bytes, rng: Generator) -> bytes:
    """The header of the format, or ours inside it, with another entry."""
    n_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_bytes])
    if "__metadata__" in header and rng.random() < 0.7:
        ours = header["__metadata__"]
        for name in ours:
            ours[name] = json.dumps(damage_json(json.loads(ours[name]), rng))
    else:
        header = damage_json(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + n_bytes :]


@lru_cache
def deflated(name: str) -> bytes:
    """A zip archive of 3 MiB whose only member, an array of numpy, holds 3 GiB."""
    head = io.BytesIO()
    layout = {"descr": "<c8", "fortran_order": False, "shape": (1, 8, 4096, 12288)}
    np.lib.format.write_array_header_1_0(head, layout)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(head.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + 192 * zeros + packer.flush()
    # Version, flags, method, time, date, CRC (never reached), sizes, lengths of name and extra.
    sizes = (len(packed), 192 * 2**24 + len(head.getvalue()), len(name), 0)
    facts = struct.pack("<5HIIIHH", 20, 0, 8, 0, 33, 0, *sizes)
    local = b"PK\3\4" + facts + name.encode()
    central = b"PK\1\2" + struct.pack("<H", 20) + facts + bytes(14) + name.encode()
    start = len(local) + len(packed)
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 1, 1, len(central), start, 0)
    return local + packed + central + end


def damage_bytes(path: Path, rng: Generator, other: bytes) -> None:
    """Damage the bytes of a file, which may be damaged already."""
    how, content = OF_BYTES[int(rng.integers(len(OF_BYTES)))], path.read_bytes()
    path.write_bytes(how(content, rng, other) if content else other[:1000])


def damage(path: Path, rng: Generator, other: bytes) -> None:
    """Damage a sound file in one way."""
    content = path.read_bytes()
    suffix, chance = path.suffix, rng.random()
    if h5py.is_hdf5(path) and chance < 0.5:
        return damage_h5(path, rng)
    if suffix == ".safetensors" and chance < 0.5:
        damaged = damage_safetensors(content, rng)
    elif suffix == ".json" and chance < 0.6:
        damaged = json.dumps(damage_json(json.loads(content), rng)).encode()
    elif _is_text(content) and chance < 0.8:
        damaged = reword(content, rng, other)
    elif suffix in (".npz", ".zip") and chance < 0.02:
        damaged = deflated("kspace.npy" if suffix == ".npz" else "a.png")
    else:
        return damage_bytes(path, rng, other)
    path.write_bytes(damaged)
    return None


def _is_text(content: bytes) -> bool:
    return not content[:2000].translate(None, bytes(range(32, 127)) + b"\n\r\t")
