"""Reads the variables of a TensorFlow SavedModel (`variables.index` and its data file) without TensorFlow.

The index is a sorted string table in blocks with shared key prefixes; its values are protocol-buffer messages with
type, shape, offset and size. Only what such files hold is read: uncompressed blocks, one data file, float32 variables.
"""

import struct
from pathlib import Path

import numpy as np

FOOTER_BYTES = 48
FLOAT32 = 1  # the type's number in a bundle entry


class BundleError(Exception):
    """The files are not what this reader understands."""


def read_varint(data, position):
    """An unsigned integer of 7 bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def read_block(data, offset, size):
    """Yields the (key, value) pairs of one block."""
    if data[offset + size] != 0:
        raise BundleError("the index holds a compressed block")
    block = data[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def read_fields(message):
    """The (number, value) pairs of a protocol-buffer message; nested messages stay bytes."""
    fields, position = [], 0
    while position < len(message):
        tag, position = read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = read_varint(message, position)
        else:
            if kind == 2:
                length, position = read_varint(message, position)
            else:
                length = 4 if kind == 5 else 8
            value = message[position : position + length]
            position += length
        fields.append((number, value))
    return fields


def read_bundle(prefix):
    """All float32 variables by name, for the files `prefix.index` and `prefix.data-00000-of-00001`."""
    index = Path(f"{prefix}.index").read_bytes()
    data = Path(f"{prefix}.data-00000-of-00001").read_bytes()
    footer = index[-FOOTER_BYTES:]
    _, position = read_varint(footer, 0)
    _, position = read_varint(footer, position)
    offset, position = read_varint(footer, position)
    size, _ = read_varint(footer, position)
    variables = {}
    for _, handle in read_block(index, offset, size):
        block_offset, position = read_varint(handle, 0)
        block_size, _ = read_varint(handle, position)
        for key, value in read_block(index, block_offset, block_size):
            entry = dict(read_fields(value))
            if not key or entry.get(1) != FLOAT32:
                continue
            dimensions = [content for number, content in read_fields(entry.get(2, b"")) if number == 2]
            shape = [dict(read_fields(dimension)).get(1, 0) for dimension in dimensions]
            start = entry.get(4, 0)
            variables[key.decode()] = np.frombuffer(data[start : start + entry[5]], np.float32).reshape(shape)
    if not variables:
        raise BundleError(f"{prefix}.index holds no float32 variable")
    return variables
