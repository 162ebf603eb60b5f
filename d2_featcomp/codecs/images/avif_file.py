"""AVIF files: the size of the frame in one, which libavif decodes whole before anyone can look at it."""

from itertools import islice

__all__ = ["require_one_frame"]

# A table of where the data are, of one item in one piece: what is before and between two numbers that do
# not matter; then follow its position and length.
_ILOC_BEGIN, _ILOC_PIECE, _ILOC_BYTES = bytes.fromhex("0000000044000001"), bytes.fromhex("00000001"), 22
# Kinds of AV1 units: sequence header and frame, which a temporal delimiter may precede.
_UNITS = ([1, 6], [2, 1, 6])
_LENGTH_BYTES = 8  # of a unit's length, at most


def require_one_frame(data, size):
    """Refuses an AVIF file that is not one still picture of one frame. The size that it declares beside
    the frame does not count: libavif enlarges or shrinks the frame to it.

    Args:
        data (bytes): from anywhere.
        size ((int, int)): height and width, in pixels, that the frame must have.

    Raises:
        ValueError, IndexError: it is another file.
    """
    units = list(islice(_read_units(_find_item(data)), 4))
    if [kind for kind, _ in units] not in _UNITS:
        raise ValueError("it holds something else than one AV1 frame")
    found = _read_size(units[-2][1])
    if found != tuple(size):
        raise ValueError(f"it holds a frame of {found}, not of {tuple(size)}")


def _find_item(data):
    """Finds the AV1 data of a file of one item."""
    boxes = list(islice(_read_boxes(data), 4))
    if [name for name, _ in boxes] != [b"ftyp", b"meta", b"mdat"]:
        raise ValueError("it is no AVIF file of one picture")
    inner = _read_boxes(boxes[1][1][4:])
    places = [content for name, content in inner if name == b"iloc"]
    place = places[0] if len(places) == 1 else b""
    if (place[:8], place[10:14], len(place)) != (_ILOC_BEGIN, _ILOC_PIECE, _ILOC_BYTES):
        raise ValueError("it is no AVIF file of one picture in one piece")
    start, length = (int.from_bytes(place[first : first + 4], "big") for first in (14, 18))
    return data[start : start + length]


def _read_boxes(data):
    """Yields (name, content), bytes, of the boxes of an ISO base media file."""
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if not 8 <= length <= len(data) - position:
            raise ValueError("it is cut short or damaged")
        yield data[position + 4 : position + 8], data[position + 8 : position + length]
        position += length


def _read_units(data):
    """Yields (kind, content) of the units (OBU) of AV1 data, which tell their lengths."""
    position = 0
    while position < len(data):
        head, length = data[position], 0
        if head & 0b10000111 != 0b00000010:
            raise ValueError("it holds a malformed AV1 unit")
        for index in range(_LENGTH_BYTES):
            position += 1
            length |= (data[position] & 0x7F) << (7 * index)
            if data[position] < 0x80:
                break
        position += 1
        if length > len(data) - position:
            raise ValueError("it holds an AV1 unit that is cut short")
        yield head >> 3, data[position : position + length]
        position += length


def _read_size(sequence):
    """Height and width in a sequence header of a still picture (AV1 specification, 5.5.1)."""
    bits = int.from_bytes(sequence[:8].ljust(8, b"\0"), "big")

    def read(start, count):
        return bits >> (64 - start - count) & (2**count - 1)

    if read(3, 2) != 0b11:  # still_picture, reduced_still_picture_header: no frame has a size of its own
        raise ValueError("it holds no still AV1 picture")
    width_bits, height_bits = read(10, 4) + 1, read(14, 4) + 1
    return read(18 + width_bits, height_bits) + 1, read(18, width_bits) + 1
