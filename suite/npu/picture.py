#!/usr/bin/env python3
"""A layout as a picture: python3 suite/npu/picture.py LAYOUT.gds TOP PLACED.def CELLS.lef PICTURE.png

Reads GDSII (boundaries and references) and paints the layers below in their order, above the outlines of the placed cells: the library of qflow has no
layout of its cells. Flip-flops are darker. Needs nothing but Python.
"""
import re
import struct
import sys
import zlib

# Cells, and layers of the OSU 0.18 µm library from the substrate up: number, colour, opacity.
LAYERS = [
    ("cell", (214, 222, 230), 1.0),
    ("flip-flop", (150, 180, 210), 1.0),
    (42, (205, 225, 205), 0.6),  # n-well
    (43, (120, 170, 120), 0.7),  # active
    (46, (200, 70, 60), 0.8),  # polysilicon
    (49, (70, 110, 200), 0.55),  # metal 1
    (51, (170, 90, 170), 0.45),  # metal 2
    (62, (220, 150, 40), 0.35),  # metal 3
    (31, (60, 170, 160), 0.35),  # metal 4
]
PIXELS = 1000
DRAWN = {number for number, _, _ in LAYERS}


def records(data):
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from(">HH", data, at)
        if size < 4:
            return
        yield kind >> 8, data[at + 4 : at + size]
        at += size


def real(data):
    exponent, mantissa = data[0], int.from_bytes(data[1:8], "big")
    value = mantissa / (1 << 56) * 16.0 ** ((exponent & 127) - 64)
    return -value if exponent & 128 else value


def read(path):
    """Structures by name: polygons (layer, points) and references (name, mirrored, angle, place)."""
    structures, current, element = {}, None, {}
    for kind, data in records(open(path, "rb").read()):
        if kind == 0x06:
            current = structures.setdefault(data.rstrip(b"\0").decode(), ([], []))
        elif kind in (0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x15):
            element = {"kind": kind, "mirrored": False, "angle": 0}
        elif kind == 0x0D:
            element["layer"] = struct.unpack(">h", data)[0]
        elif kind == 0x12:
            element["name"] = data.rstrip(b"\0").decode()
        elif kind == 0x1A:
            element["mirrored"] = bool(data[0] & 0x80)
        elif kind == 0x1C:
            element["angle"] = round(real(data)) % 360
        elif kind == 0x10:
            numbers = struct.unpack(f">{len(data) // 4}i", data)
            element["points"] = list(zip(numbers[::2], numbers[1::2]))
        elif kind == 0x11 and current is not None and element.get("points") and "kind" in element:
            if element["kind"] == 0x08 and element.get("layer") in DRAWN:
                current[0].append((element["layer"], element["points"]))
            elif element["kind"] == 0x0A:
                current[1].append((element["name"], element["mirrored"], element["angle"], element["points"][0]))
            element = {}
    return structures


TURN = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}


def flatten(structures, name, move):
    polygons, references = structures[name]
    for layer, points in polygons:
        yield layer, [move(*p) for p in points]
    for inner, mirrored, angle, (px, py) in references:
        if inner not in structures:
            continue
        cos, sin = TURN[angle]

        def inside(x, y, m=mirrored, c=cos, s=sin, px=px, py=py):
            y = -y if m else y
            return move(c * x - s * y + px, s * x + c * y + py)

        yield from flatten(structures, inner, inside)


def cells(placed, library):
    """Outlines of placed cells, in nanometres."""
    lef, text = open(library).read(), open(placed).read()
    sizes = {name: (float(w), float(h)) for name, w, h in re.findall(r"MACRO (\S+).*?SIZE ([\d.]+) BY ([\d.]+)", lef, re.S)}
    unit = 1000 / int(re.search(r"UNITS DISTANCE MICRONS (\d+)", text)[1])
    for kind, x, y in re.findall(r"^\s*- \S+ (\S+) \+ PLACED \( (-?\d+) (-?\d+) \)", text, re.M):
        if kind.startswith("FILL"):
            continue
        left, low = int(x) * unit, int(y) * unit
        # A gap shows where one ends.
        right, high = left + sizes[kind][0] * 1000 - 150, low + sizes[kind][1] * 1000 - 400
        yield "flip-flop" if kind.startswith("DFF") else "cell", [(left, low), (right, low), (right, high), (left, high)]


def spans(points, row):
    """Where a polygon covers a line y = row."""
    cuts = []
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
        if (y0 <= row) != (y1 <= row):
            cuts.append(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
    cuts.sort()
    return zip(cuts[::2], cuts[1::2])


def paint(polygons, pixels):
    every = [p for _, points in polygons for p in points]
    left, right = min(p[0] for p in every), max(p[0] for p in every)
    low, high = min(p[1] for p in every), max(p[1] for p in every)
    scale = pixels / max(right - left, high - low)
    width, height = int((right - left) * scale) + 1, int((high - low) * scale) + 1
    image = [bytearray(b"\xff" * (3 * width)) for _ in range(height)]
    for number, colour, opacity in LAYERS:
        covered = [bytearray(width) for _ in range(height)]
        for layer, points in polygons:
            if layer != number:
                continue
            at = [((x - left) * scale, (high - y) * scale) for x, y in points]
            for row in range(max(0, int(min(p[1] for p in at))), min(height, int(max(p[1] for p in at)) + 1)):
                for begin, end in spans(at, row + 0.5):
                    for x in range(max(0, round(begin)), min(width, max(round(begin) + 1, round(end)))):
                        covered[row][x] = 1
        for line, cover in zip(image, covered):
            for x, one in enumerate(cover):
                if one:
                    for k in range(3):
                        line[3 * x + k] = int(line[3 * x + k] * (1 - opacity) + colour[k] * opacity)
    return width, height, image


def png(path, width, height, lines):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + bytes(line) for line in lines)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    layout, top, placed, library, picture = sys.argv[1:]
    structures = read(layout)
    if top not in structures:
        sys.exit(f"{layout}: no structure {top}; there are {', '.join(sorted(structures)[:20])}")
    png(picture, *paint([*cells(placed, library), *flatten(structures, top, lambda x, y: (x, y))], PIXELS))


main()
