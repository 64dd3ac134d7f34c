"""Inflating gzip from the middle: checkpoints taken while it is read, and going on from one of them.

A deflate stream can be entered at the beginning of any of its blocks, given the 32 KiB that came out before. Only zlib
itself tells where blocks begin, while it inflates; Python's module has no such call, nor has `isal`. So this talks
to a shared library: to zlib-ng, which takes half the time and is in the package `zlib-ng`, or else to that which
Python's own module stands on (zlib.h, since 1.2.8). Where there is neither, `available` is false, and gzip layers get
no checkpoints.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from shipway.errors import Corrupt, Truncated
from shipway.trees.entry import Buffer

_OK, _STREAM_END, _BUF_ERROR = 0, 1, -5
_NO_FLUSH, _BLOCK = 0, 5
_RAW, _GZIP = -15, 31
_WINDOW = 32 << 10
_TRAILER = 8
_AT_BLOCK, _LAST_BLOCK, _BITS = 128, 64, 7


class Point(NamedTuple):
    """Where a stream can be entered: the byte in which a block begins, what has come out by then, and the last of it.

    `bits` of the byte at `offset` belong to the block, the upper ones; if none, it begins with all of that byte.
    """

    offset: int
    bits: int
    plain: int
    window: bytes


class _Stream(ctypes.Structure):
    """zlib's `z_stream`; zlib-ng's is the same but for what comes last, which is not used here."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


class _Library:
    """The functions of zlib or of zlib-ng. Raises `OSError` or `AttributeError` where they are not."""

    def __init__(self, path: str, prefix: str) -> None:
        library = ctypes.CDLL(path)
        names = "inflate", "inflateEnd", "inflateReset2", "inflatePrime", "inflateSetDictionary", "inflateGetDictionary"
        self.functions: dict[str, Any] = {name: library[prefix + name] for name in names}
        if prefix:
            self.functions["inflateInit2"] = library[prefix + "inflateInit2"]
        else:  # in zlib.h that is a macro
            library.zlibVersion.restype = ctypes.c_char_p
            begin, version, size = library.inflateInit2_, library.zlibVersion(), ctypes.sizeof(_Stream)
            self.functions["inflateInit2"] = lambda stream, bits: begin(stream, bits, version, size)


def _path_of_zlib_ng() -> str:
    spec = find_spec("zlib_ng.zlib_ng") if find_spec("zlib_ng") is not None else None
    if spec is None or spec.origin is None:
        raise OSError("not installed")
    return spec.origin


@cache
def libraries() -> tuple[_Library, ...]:
    """Return the libraries that will do, the fastest first."""
    found: list[_Library] = []
    for path, prefix in ((_path_of_zlib_ng, "zng_"), (lambda: "libz.so.1", "")):
        with suppress(OSError, AttributeError):
            found.append(_Library(path(), prefix))
    return tuple(found)


def available() -> bool:
    """Whether checkpoints can be taken and used here."""
    return bool(libraries())


class _Inflater:
    """A `z_stream`, freed with its object."""

    def __init__(self, bits: int, where: str) -> None:
        self.stream = _Stream()
        self._functions = libraries()[0].functions
        self._where = where
        self._input = b""
        self._call("inflateInit2", bits)

    def __del__(self) -> None:
        if self.stream.state:
            self._functions["inflateEnd"](ctypes.byref(self.stream))

    def _call(self, name: str, *arguments: Any) -> int:
        status: int = self._functions[name](ctypes.byref(self.stream), *arguments)
        if status not in (_OK, _STREAM_END, _BUF_ERROR):
            message = (self.stream.msg or b"").decode(errors="replace")
            raise Corrupt(f"not gzip data: {message or status}", where=self._where)
        return status

    @property
    def left(self) -> int:
        """How many bytes of the input were not taken yet."""
        return int(self.stream.avail_in)

    def give(self, data: Buffer) -> None:
        """Set the input; what was left of the one before is dropped."""
        self._input = bytes(data)  # kept: zlib has a pointer into it
        self.stream.next_in = ctypes.cast(ctypes.c_char_p(self._input), ctypes.c_void_p)
        self.stream.avail_in = len(self._input)

    def skip(self, size: int) -> None:
        """Pass over input."""
        self.stream.next_in += size
        self.stream.avail_in -= size

    def rest(self) -> bytes:
        """Return the input that was not taken yet."""
        return self._input[len(self._input) - self.left :]

    def inflate(self, place: int, size: int, flush: int) -> tuple[int, bool]:
        """Return how many bytes were written to the address `place`, and whether the stream, or member, ended."""
        self.stream.next_out = place
        self.stream.avail_out = size
        status = self._call("inflate", flush)
        return size - self.stream.avail_out, status == _STREAM_END

    def reset(self, bits: int) -> None:
        """Begin anew with what is left of the input."""
        self._call("inflateReset2", bits)

    def prime(self, bits: int, value: int, window: bytes) -> None:
        """Begin in the middle, after `window`, with some bits of a byte."""
        if bits:
            self._call("inflatePrime", bits, value)
        if window:
            self._call("inflateSetDictionary", window, len(window))

    def window(self) -> bytes:
        """Return the last that came out of this member."""
        window = ctypes.create_string_buffer(_WINDOW)
        size = ctypes.c_uint()
        self._call("inflateGetDictionary", window, ctypes.byref(size))
        return window.raw[: size.value]


class CheckpointingGzip:
    """A gzip blob as a `ByteSource` that takes a checkpoint every `spacing` bytes or a little more."""

    def __init__(self, pieces: Iterator[Buffer], spacing: int, where: str) -> None:
        """Read `pieces`; `where` names the blob in errors."""
        self.points: list[Point] = []
        """The checkpoints so far; the first is at the beginning."""
        self._pieces = pieces
        self._spacing = spacing
        self._where = where
        self._inflater = _Inflater(_GZIP, where)
        self._taken = 0
        """Bytes of the blob that the inflater was given."""
        self._plain = 0
        self._between = True
        """Whether nothing, or a whole number of members, was read."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as there is something left; see `ByteSource`."""
        place = _address(buffer)
        done = 0
        while done < len(buffer):
            if not self._inflater.left and not self._more():
                if not self._between:
                    raise Truncated("gzip data ends before its end-of-stream marker", where=self._where)
                break
            if self._between and not self._next_member():
                break
            # Stopping at each block costs time: so only where a checkpoint is wanted.
            early = self.points[-1].plain + self._spacing - 1 - self._plain if self.points else 0
            most, flush = (min(early, len(buffer) - done), _NO_FLUSH) if early > 0 else (len(buffer) - done, _BLOCK)
            size, ended = self._inflater.inflate(place + done, most, flush)
            done += size
            self._plain += size
            if ended:
                self._between = True
                self._inflater.reset(_GZIP)
            else:
                self._look()
        return done

    def _more(self) -> bool:
        for piece in self._pieces:
            if piece:
                self._inflater.give(piece)
                self._taken += len(piece)
                return True
        return False

    def _next_member(self) -> bool:
        """Go on to the next member, over zeros that fill a blob up; return whether there is one."""
        while True:
            rest = self._inflater.rest()
            zeros = len(rest) - len(rest.lstrip(b"\0")) if self._plain or self.points else 0
            self._inflater.skip(zeros)
            if zeros < len(rest):
                self._between = False
                return True
            if not self._more():
                return False

    def _look(self) -> None:
        """Take a checkpoint, if a block begins here and it is time."""
        kind = self._inflater.stream.data_type
        if not kind & _AT_BLOCK or kind & _LAST_BLOCK:
            return
        if self.points and self._plain - self.points[-1].plain < self._spacing:
            return
        bits = kind & _BITS
        offset = self._taken - self._inflater.left - (1 if bits else 0)
        self.points.append(Point(offset, bits, self._plain, self._inflater.window()))


def _address(buffer: bytearray | memoryview) -> int:
    """Return where the first byte of a buffer is, which whoever uses it keeps."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if len(buffer) else 0


def inflate_from(point: Point, data: Buffer, size: int, where: str) -> bytes:
    """Return the `size` bytes that come out after a checkpoint, of `data`, the blob's bytes from there on.

    Raises `Corrupt`, or `Truncated` if there are fewer.
    """
    inflater = _Inflater(_RAW, where)
    inflater.give(data)
    if point.bits:
        if not len(data):
            raise Truncated(f"ended after 0 of {size} bytes", where=where)
        inflater.skip(1)
        inflater.prime(point.bits, data[0] >> (8 - point.bits), point.window)
    else:
        inflater.prime(0, 0, point.window)
    plain = bytearray(size)
    place = _address(plain)
    done, raw = 0, True
    while done < size:
        if not inflater.left:
            raise Truncated(f"ended after {done} of {size} bytes", where=where)
        wrote, ended = inflater.inflate(place + done, size - done, _NO_FLUSH)
        done += wrote
        if ended:  # another member begins, after the rest of this one
            if raw:
                inflater.skip(min(_TRAILER, inflater.left))
                raw = False
            rest = inflater.rest()
            inflater.skip(len(rest) - len(rest.lstrip(b"\0")))
            inflater.reset(_GZIP)
        elif not wrote and not inflater.left:
            raise Truncated(f"ended after {done} of {size} bytes", where=where)
    return bytes(plain)
