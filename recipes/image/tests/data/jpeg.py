"""A JPEG encoder that writes any order of scans, any sampling and any progression, for matrix.py."""
import struct
import numpy as np

ZIGZAG = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
          28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61,
          54, 47, 55, 62, 63]
COSINES = np.array([[(0.5 if u else 0.5 / 2 ** 0.5) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)]
                    for u in range(8)])
# Codes for every symbol there can be: 12 of 4 bits, and 254 of 8 bits with two of 9.
DC_CODES = ([0, 0, 0, 12] + [0] * 12, list(range(12)))
AC_CODES = ([0] * 7 + [254, 2] + [0] * 7, list(range(256)))
# Those of T.81, annex K.3, for brightness: their codes are of up to 16 bits.
USUAL_DC = ([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], list(range(12)))


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def codes(table):
    counts, symbols = table
    code, place, found = 0, 0, {}
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            found[symbols[place]] = (code, length)
            code, place = code + 1, place + 1
        code <<= 1
    return found


class Bits:
    def __init__(self):
        self.text = []

    def put(self, value, count):
        if count:
            self.text.append(format(value, "0%db" % count))

    def symbol(self, table, symbol):
        self.put(*table[symbol])

    def bytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        data = bytes(int(text[i:i + 8], 2) for i in range(0, len(text), 8))
        return data.replace(b"\xff", b"\xff\x00")


def magnitude(value):
    size = int(abs(value)).bit_length()
    return size, value if value >= 0 else value + (1 << size) - 1


class Jpeg:
    """Components are planes at the picture's size, or fewer samples each by their factors (h, v)."""

    def __init__(self, planes, factors, ids=None, quality=14, restart=0, usual=None):
        self.height, self.width = planes[0].shape
        self.factors = factors
        self.ids = ids or list(range(1, len(planes) + 1))
        self.restart = restart
        # The tables of T.81 for coefficients of whole blocks, where they are wanted.
        self.dc, self.ac = (USUAL_DC, usual) if usual else (DC_CODES, AC_CODES)
        self.table = np.array([quality + (u + v) * quality // 2 for v in range(8) for u in range(8)])
        self.h, self.v = max(f[0] for f in factors), max(f[1] for f in factors)
        self.across, self.down = -(-self.width // (8 * self.h)), -(-self.height // (8 * self.v))
        self.blocks = [self.transform(p, *f) for p, f in zip(planes, factors)]

    def transform(self, plane, h, v):
        high, wide = self.down * 8 * self.v, self.across * 8 * self.h
        plane = np.pad(plane.astype(float), ((0, high - self.height), (0, wide - self.width)), "edge")
        y, x = self.v // v, self.h // h
        plane = plane.reshape(high // y, y, wide // x, x).mean((1, 3)) - 128
        rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
        found = np.zeros((rows, columns, 64), int)
        for r in range(rows):
            for c in range(columns):
                f = COSINES @ plane[r * 8:r * 8 + 8, c * 8:c * 8 + 8] @ COSINES.T
                found[r, c] = np.round(f.flatten() / self.table)[ZIGZAG]
        return found

    def head(self, marker, extra=b"", precision=8):
        parts = b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(self.ids, self.factors))
        out = b"\xff\xd8" + extra + segment(0xDB, bytes([0]) + bytes(self.table[ZIGZAG].astype(np.uint8)))
        out += segment(marker, struct.pack(">BHHB", precision, self.height, self.width, len(self.ids)) + parts)
        if self.restart:
            out += segment(0xDD, struct.pack(">H", self.restart))
        return out

    def tables(self):
        data = b"".join(bytes([kind]) + bytes(t[0]) + bytes(t[1]) for kind, t in ((0, self.dc), (16, self.ac)))
        return segment(0xC4, data)

    def mcus(self, parts):
        """The blocks of each MCU: (component, row, column)."""
        if len(parts) == 1:
            h, v = self.factors[parts[0]]
            wide, high = -(-self.width * h // self.h), -(-self.height * v // self.v)
            if len(self.ids) == 1:
                wide, high = self.width, self.height
            return [[(parts[0], r, c)] for r in range(-(-high // 8)) for c in range(-(-wide // 8))]
        return [[(p, my * self.factors[p][1] + y, mx * self.factors[p][0] + x) for p in parts
                 for y in range(self.factors[p][1]) for x in range(self.factors[p][0])]
                for my in range(self.down) for mx in range(self.across)]

    def scan(self, parts, first=0, last=63, high=0, low=0, progressive=False):
        header = bytes([len(parts)]) + b"".join(bytes([self.ids[p], 0]) for p in parts)
        out = segment(0xDA, header + bytes([first, last, high << 4 | low]))
        mcus = self.mcus(parts)
        step = self.restart or len(mcus)
        for number, start in enumerate(range(0, len(mcus), step)):
            if number:
                out += bytes([0xFF, 0xD0 + (number - 1) % 8])
            blocks = [b for mcu in mcus[start:start + step] for b in mcu]
            out += self.interval(blocks, first, last, high, low, progressive)
        return out

    def interval(self, blocks, first, last, high, low, progressive):
        bits, before = Bits(), {}
        dc, ac = codes(self.dc), codes(self.ac)
        run = Run(bits, ac)
        for part, row, column in blocks:
            block = self.blocks[part][row, column]
            if first == 0 and high == 0:
                value = int(block[0]) >> low
                size, raw = magnitude(value - before.get(part, 0))
                before[part] = value
                bits.symbol(dc, size)
                bits.put(raw, size)
            elif first == 0:
                bits.put(int(block[0]) >> low & 1, 1)
            if not progressive:
                self.whole(bits, ac, block)
            elif first and not high:
                run.first_bits(block, first, last, low)
            elif first:
                run.next_bits(block, first, last, low)
        run.end()
        return bits.bytes()

    @staticmethod
    def whole(bits, ac, block):
        zeros = 0
        for value in block[1:]:
            if not value:
                zeros += 1
                continue
            while zeros > 15:
                bits.symbol(ac, 0xF0)
                zeros -= 16
            size, raw = magnitude(int(value))
            bits.symbol(ac, zeros << 4 | size)
            bits.put(raw, size)
            zeros = 0
        if zeros:
            bits.symbol(ac, 0)


class Run:
    """Progressive blocks, with what stands for those that have nothing new."""

    def __init__(self, bits, ac):
        self.bits, self.ac, self.count, self.corrections = bits, ac, 0, []

    def end(self):
        if self.count:
            size = self.count.bit_length() - 1
            self.bits.symbol(self.ac, size << 4)
            self.bits.put(self.count - (1 << size), size)
        for bit in self.corrections:
            self.bits.put(bit, 1)
        self.count, self.corrections = 0, []

    def more(self, corrections=()):
        self.count += 1
        self.corrections += corrections
        if self.count == 0x7FFF:
            self.end()

    def first_bits(self, block, first, last, low):
        zeros = 0
        for k in range(first, last + 1):
            value = int(block[k])
            value = abs(value) >> low if value >= 0 else -(abs(value) >> low)
            if not value:
                zeros += 1
                continue
            self.end()
            while zeros > 15:
                self.bits.symbol(self.ac, 0xF0)
                zeros -= 16
            size, raw = magnitude(value)
            self.bits.symbol(self.ac, zeros << 4 | size)
            self.bits.put(raw, size)
            zeros = 0
        if zeros:
            self.more()

    def next_bits(self, block, first, last, low):
        values = [abs(int(v)) >> low for v in block]
        new = [k for k in range(first, last + 1) if values[k] == 1]
        end = new[-1] if new else -1
        zeros, corrections = 0, []
        for k in range(first, last + 1):
            value = values[k]
            if not value:
                zeros += 1
                continue
            while zeros > 15 and k <= end:
                self.end()
                self.bits.symbol(self.ac, 0xF0)
                zeros -= 16
                for bit in corrections:
                    self.bits.put(bit, 1)
                corrections = []
            if value > 1:
                corrections.append(value & 1)
                continue
            self.end()
            self.bits.symbol(self.ac, zeros << 4 | 1)
            self.bits.put(int(block[k] > 0), 1)
            for bit in corrections:
                self.bits.put(bit, 1)
            zeros, corrections = 0, []
        if zeros or corrections:
            self.more(corrections)
