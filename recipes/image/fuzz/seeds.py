#!/usr/bin/env python3
"""seeds.py FOLDER: every file of the matrix, each in a file of its own."""
import json, os, struct, sys
import zstandard

here = os.path.dirname(os.path.abspath(__file__))
data = open(os.path.join(here, "..", "tests", "data", "matrix.zst"), "rb").read()
data = zstandard.ZstdDecompressor().decompress(data)
size, _ = struct.unpack("<II", data[:8])
os.makedirs(sys.argv[1], exist_ok=True)
for number, case in enumerate(json.loads(data[8:8 + size])["cases"]):
    at = 8 + size + case["at"]
    open(os.path.join(sys.argv[1], f"{number:04}"), "wb").write(data[at:at + case["length"]])
