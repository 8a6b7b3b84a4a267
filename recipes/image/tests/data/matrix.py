#!/usr/bin/env python3
"""Writes matrix.zst: small files of every kind, with the pixels that Pillow (libjpeg-turbo, libwebp, libtiff) gives.

needs: numpy, pillow, zstandard. Files that Pillow reads and we refuse on purpose are marked here.
"""
import io, itertools, json, struct, sys, warnings, zlib
import numpy as np, zstandard
from PIL import Image, ImageOps, features

from jpeg import AC_CODES, Jpeg, segment
from others import others

warnings.simplefilter("ignore")
CASES, POOL, PLACES = [], [], {}


def decode(file):
    """As the reference of efficientnet_lite0 does."""
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    if im.mode.startswith("I"):
        im = Image.fromarray((np.asarray(im).astype(np.uint32) // 257).astype(np.uint8))
    if im.mode == "P":
        im = im.convert("RGBA") if "transparency" in im.info else im.convert("RGB")
    if im.mode in ("RGBA", "LA"):
        im = Image.merge("RGB", im.convert("RGBA").split()[:3])
    return np.asarray(im.convert("RGB"))


def case(name, file, refused=False, like=None):
    """A file that has Pillow's pixels, those of another file, or none."""
    expect = None
    if not refused:
        try:
            pixels = decode(like or file)
        except Exception as error:
            if "-k" in sys.argv:
                print(f"{name}: Pillow says {error!r}")
                return
            sys.exit(f"{name}: Pillow says {error!r}")
        key = pixels.tobytes() + str(pixels.shape).encode()
        if key not in PLACES:
            PLACES[key] = sum(map(len, POOL))
            POOL.append(pixels.tobytes())
        expect = {"width": pixels.shape[1], "height": pixels.shape[0], "at": PLACES[key]}
    CASES.append((name, file, expect))


def picture(height, width, seed=1):
    """Red, green and blue with edges, slopes and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(-3, 4, (height, width))
    red = 128 + 100 * np.sin(x / 5.0 + seed) * np.cos(y / 7.0)
    green = 255.0 * x / width
    blue = np.where((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2, 230, 40)
    return np.clip(np.stack([red + noise, green, blue + noise], -1), 0, 255).astype(np.uint8)


def planes(rgb, kind):
    im = Image.fromarray(rgb)
    return [np.asarray(p) for p in im.convert({"grey": "L", "ycc": "YCbCr", "rgb": "RGB", "cmyk": "CMYK"}[kind]).split()]


ADOBE = lambda transform: segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
EOI = b"\xff\xd9"

SAMPLINGS = {
    "444": [(1, 1)] * 3, "422": [(2, 1), (1, 1), (1, 1)], "420": [(2, 2), (1, 1), (1, 1)],
    "440": [(1, 2), (1, 1), (1, 1)], "411": [(4, 1), (1, 1), (1, 1)], "410": [(4, 2), (1, 1), (1, 1)],
    "441": [(1, 4), (1, 1), (1, 1)], "all-2x2": [(2, 2)] * 3, "all-2x1": [(2, 1)] * 3,
    "first-small": [(1, 1), (2, 2), (2, 2)], "second-large": [(1, 1), (2, 1), (1, 1)],
    "third-large": [(1, 1), (1, 1), (1, 2)], "mixed": [(2, 2), (2, 1), (1, 2)], "thirds": [(3, 1), (1, 1), (1, 1)],
    "thirds-down": [(1, 3), (1, 1), (1, 1)], "4-2-1": [(4, 1), (2, 1), (1, 1)], "3x2": [(3, 2), (1, 1), (1, 2)],
}
ORDERS = {"one": [[0, 1, 2]], "each": [[0], [1], [2]], "y-cc": [[0], [1, 2]], "yc-c": [[0, 1], [2]],
          "backwards": [[2], [1], [0]], "c-first": [[1, 2], [0]]}
# Scans of a progression: components, first, last, high, low.
ALL = [0, 1, 2]
PROGRESSIONS = {
    "spectral": [(ALL, 0, 0, 0, 0)] + [([p], a, b, 0, 0) for a, b in ((1, 5), (6, 63)) for p in ALL],
    "successive": [(ALL, 0, 0, 0, 1)] + [([p], 1, 63, 0, 2) for p in ALL] + [([p], 1, 63, 2, 1) for p in ALL]
    + [(ALL, 0, 0, 1, 0)] + [([p], 1, 63, 1, 0) for p in ALL],
    "late-dc": [([2], 1, 63, 0, 1), ([1], 1, 63, 0, 0), ([0], 1, 63, 0, 3), ([0], 0, 0, 0, 2), ([1, 2], 0, 0, 0, 0),
                ([0], 0, 0, 2, 1), ([0], 1, 63, 3, 2), ([2], 1, 63, 1, 0), ([0], 0, 0, 1, 0), ([0], 1, 63, 2, 1),
                ([0], 1, 63, 1, 0)],
    "single": [([p], 0, 0, 0, 0) for p in ALL] + [([p], 1, 63, 0, 0) for p in ALL],
}


def sequential(jpeg, order, marker=0xC0, extra=b"", tables=True):
    out = jpeg.head(marker, extra) + (jpeg.tables() if tables else b"")
    return out + b"".join(jpeg.scan(parts) for parts in order) + EOI


def progressive(jpeg, scans, extra=b""):
    out = jpeg.head(0xC2, extra) + jpeg.tables()
    return out + b"".join(jpeg.scan(*scan, progressive=True) for scan in scans) + EOI


def usual_ac():
    """The tables of T.81 as an encoder writes them."""
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "JPEG")
    data = out.getvalue()
    at = data.index(b"\xff\xc4", data.index(b"\xff\xc4") + 2)
    return list(data[at + 5:at + 21]), list(data[at + 21:at + 21 + 162])


def jpegs():
    rgb = picture(21, 27)
    ycc = planes(rgb, "ycc")
    for (name, factors), restart in itertools.product(SAMPLINGS.items(), (0, 2)):
        jpeg = Jpeg(ycc, factors, restart=restart)
        too_many = sum(h * v for h, v in factors) > 10
        for order, scans in ORDERS.items():
            large = any(len(s) > 1 and sum(factors[p][0] * factors[p][1] for p in s) > 10 for s in scans)
            if restart and order not in ("one", "each", "c-first") or large:
                continue
            case(f"jpeg {name} {order} restart-{restart}", sequential(jpeg, scans))
        for kind, scans in PROGRESSIONS.items():
            if restart and kind != "successive" or too_many and kind != "single":
                continue
            case(f"jpeg {name} progressive-{kind} restart-{restart}", progressive(jpeg, scans))
    for size in ((1, 1), (2, 3), (3, 2), (8, 8), (9, 17), (16, 16), (50, 70), (5, 64), (64, 5), (33, 4)):
        for name in ("444", "422", "420", "440", "411", "first-small"):
            small = Jpeg(planes(picture(*size, seed=3), "ycc"), SAMPLINGS[name], quality=12)
            case(f"jpeg {name} {size[1]}x{size[0]}", sequential(small, [ALL]))
            case(f"jpeg {name} {size[1]}x{size[0]} progressive", progressive(small, PROGRESSIONS["successive"]))
    one = [[0]]
    for h, v in ((1, 1), (2, 2), (2, 1), (1, 4), (3, 2)):
        jpeg = Jpeg(planes(rgb, "grey"), [(h, v)], restart=3 if h == 2 else 0)
        case(f"jpeg grey {h}x{v}", sequential(jpeg, one))
        case(f"jpeg grey {h}x{v} progressive",
             progressive(jpeg, [([0], 0, 0, 0, 1), ([0], 1, 9, 0, 1), ([0], 10, 63, 0, 0), ([0], 0, 0, 1, 0), ([0], 1, 9, 1, 0)]))
    for factors in ([(1, 1)] * 3, [(2, 1), (1, 1), (1, 1)]):
        red = planes(rgb, "rgb")
        case("jpeg rgb by Adobe", sequential(Jpeg(red, factors), [ALL], extra=ADOBE(0)))
        case("jpeg rgb by ids", sequential(Jpeg(red, factors, ids=list(b"RGB")), [ALL]))
        case("jpeg rgb by ids, JFIF", sequential(Jpeg(ycc, factors, ids=list(b"RGB")), [ALL], extra=JFIF))
        case("jpeg ycc by Adobe", sequential(Jpeg(ycc, factors, ids=[0, 1, 2]), [ALL], extra=ADOBE(1)))
        case("jpeg ycc, JFIF and Adobe 0", sequential(Jpeg(ycc, factors), [ALL], extra=JFIF + ADOBE(0)))
        case("jpeg odd ids", sequential(Jpeg(ycc, factors, ids=[34, 35, 7]), [[1], [2], [0]]))
        case("jpeg rgb by Adobe, in scans", sequential(Jpeg(red, factors), [[0], [1], [2]], extra=ADOBE(0)))
    inks = planes(rgb, "cmyk")
    four = [0, 1, 2, 3]
    for name, extra in (("cmyk", ADOBE(0)), ("cmyk without Adobe", b""), ("ycck", ADOBE(2))):
        for factors in ([(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)], [(2, 1), (1, 1), (1, 1), (2, 1)]):
            jpeg = Jpeg([255 - p for p in inks], factors)
            case(f"jpeg {name}", sequential(jpeg, [four], extra=extra))
            case(f"jpeg {name} in scans", sequential(jpeg, [[3], [0], [1, 2]], extra=extra))
            case(f"jpeg {name} progressive",
                 progressive(jpeg, [(four, 0, 0, 0, 0)] + [([p], 1, 63, 0, 0) for p in four], extra))
    # Motion JPEG leaves its tables out. Long codes come with them.
    for name in ("422", "420", "444"):
        jpeg = Jpeg(ycc, SAMPLINGS[name], usual=usual_ac(), quality=2, restart=4)
        case(f"jpeg {name} without tables", sequential(jpeg, [ALL], tables=False))
        case(f"jpeg {name} with the usual tables", sequential(jpeg, [ALL]))
    jpeg = Jpeg(ycc, SAMPLINGS["420"])
    whole = sequential(jpeg, [ALL], 0xC1)
    case("jpeg extended", whole)
    for name, trailer in (("a trailer", b"a maker's trailer" * 20), ("zeros", bytes(50)),
                          ("bytes before the end marker", b"\0\1\2\3" + EOI), ("a picture", EOI + whole)):
        case(f"jpeg followed by {name}", whole[:-2] + trailer)
    parts = progressive(jpeg, PROGRESSIONS["successive"])
    case("jpeg followed by half a picture", whole[:-2] + whole[:300], like=whole)
    # All data is there, but Pillow wants two bytes more.
    case("jpeg followed by nothing", whole[:-2], like=whole)
    case("jpeg progressive followed by nothing", parts[:-2], like=parts)
    scan = whole.index(b"\xff\xda")
    case("jpeg with stray bytes", whole[:scan] + b"\0\0stray\x12\xff\0" + whole[scan:])
    case("jpeg with fill bytes", whole[:scan] + b"\xff\xff\xff" + whole[scan:])
    case("jpeg with stray bytes at the begin", whole[:2] + JFIF + bytes(11) + whole[2:])
    case("jpeg with a comment in two", whole[:2] + segment(0xFE, b"\xff\xd9\xff\xda") + whole[2:])
    # What encoders in use write.
    for quality, sampling, options in itertools.product((30, 92), (0, 1, 2), ({}, {"optimize": True}, {"progressive": True})):
        out = io.BytesIO()
        Image.fromarray(picture(35, 41, 5)).save(out, "JPEG", quality=quality, subsampling=sampling, **options)
        case(f"jpeg of Pillow {quality} {sampling} {options}", out.getvalue())
    refused_jpegs(jpeg, whole, parts)
    orientations(whole)


def refused_jpegs(jpeg, whole, parts):
    scan = whole.index(b"\xff\xda") + 14
    for share in (0, 3, 30, 60, 90, 99):
        cut = scan + (len(whole) - 2 - scan) * share // 100
        case(f"jpeg damage: cut at {share} %", whole[:cut], True)
        case(f"jpeg damage: cut at {share} %, end marker", whole[:cut] + EOI, True)
    scans = [i for i in range(len(parts)) if parts[i:i + 2] == b"\xff\xda"]
    for number, start in enumerate(scans):
        case(f"jpeg damage: before scan {number}", parts[:start] + EOI, True)
        end = (scans + [len(parts) - 2])[number + 1]
        case(f"jpeg damage: cut in scan {number}", parts[:(start + 10 + end) // 2] + parts[end:], True)
        # The very first one may be refined no more; all others are missed.
        case(f"jpeg damage: without scan {number}", parts[:start] + parts[end:], True)
    apart = jpeg.head(0xC0) + jpeg.tables()
    for missing in ALL:
        case(f"jpeg damage: without component {missing}",
             apart + b"".join(jpeg.scan([p]) for p in ALL if p != missing) + EOI, True)
    marked = Jpeg(planes(picture(21, 27), "ycc"), SAMPLINGS["422"], restart=2)
    data = sequential(marked, [ALL])
    first = data.index(b"\xff\xd0")
    second = data.index(b"\xff\xd1")
    case("jpeg damage: without a restart marker", data[:first] + data[first + 2:], True)
    case("jpeg damage: restart markers out of order", data[:first + 1] + b"\xd3" + data[first + 2:], True)
    case("jpeg damage: without an interval", data[:first] + data[second:], True)
    case("jpeg damage: no tables of quantisation", whole.replace(b"\xff\xdb", b"\xff\xe9"), True)
    case("jpeg damage: no frame", whole[:2] + whole[whole.index(b"\xff\xc4"):], True)
    for marker, name in ((0xC3, "lossless"), (0xC5, "hierarchical"), (0xC9, "arithmetic"), (0xCA, "arithmetic progressive")):
        case(f"jpeg refused: {name}", jpeg.head(marker) + jpeg.tables() + jpeg.scan(ALL) + EOI, True)
    case("jpeg refused: 12 bits", jpeg.head(0xC1, precision=12) + jpeg.tables() + jpeg.scan(ALL) + EOI, True)
    fractions = Jpeg.__new__(Jpeg)
    fractions.__dict__.update(jpeg.__dict__, factors=[(3, 1), (2, 1), (1, 1)])
    case("jpeg refused: fractions", fractions.head(0xC0) + whole[whole.index(b"\xff\xc4"):], True)


def tiff_of(number, order="<", kind=3, tag=0x0112, before=0):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    entries = [struct.pack(order + "HHII", 0x10F - i, 3, 1, 7) for i in range(before)]
    value = {1: "B3x", 3: "H2x", 4: "I", 8: "h2x", 9: "i"}.get(kind)
    if value:
        entry = struct.pack(order + "HHI" + value, tag, kind, 1, number)
        tail = b""
    else:
        entry = struct.pack(order + "HHII", tag, kind, 1, 8 + 2 + 12 * (before + 1) + 4)
        tail = struct.pack(order + "II", number, 1)
    return head + struct.pack(order + "H", before + 1) + b"".join(entries) + entry + bytes(4) + tail


ATTRIBUTE = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
ELEMENT = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>'


def orientations(whole):
    exif = lambda data: segment(0xE1, b"Exif\0\0" + data)
    put = lambda *segments: whole[:2] + b"".join(segments) + whole[2:]
    xmp = lambda text: segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text.encode())
    for number in range(0, 10):
        case(f"jpeg exif {number}", put(exif(tiff_of(number))))
    for order, kind in itertools.product("<>", (1, 3, 4, 5, 8, 9)):
        case(f"jpeg exif {order} type {kind}", put(exif(tiff_of(6, order, kind, before=2))))
        case(f"jpeg exif {order} type {kind} behind a doubled header", put(exif(b"Exif\0\0" + tiff_of(8, order, kind))))
    case("jpeg exif of a doubled header twice", put(exif(b"Exif\0\0Exif\0\0" + tiff_of(8))))
    case("jpeg exif without the tag", put(exif(tiff_of(6, tag=0x0110))))
    case("jpeg exif cut short", put(exif(tiff_of(6)[:15])))
    case("jpeg exif in two segments", put(exif(tiff_of(6, before=3)[:30]), exif(tiff_of(6, before=3)[30:])))
    case("jpeg exif after XMP", put(xmp(ATTRIBUTE % 3), exif(tiff_of(6))))
    case("jpeg exif of 1 beside XMP", put(exif(tiff_of(1)), xmp(ATTRIBUTE % 3)))
    case("jpeg exif without the tag beside XMP", put(exif(tiff_of(6, tag=0x0110)), xmp(ATTRIBUTE % 3)))
    for number in range(1, 10):
        case(f"jpeg XMP {number}", put(xmp((ATTRIBUTE if number % 2 else ELEMENT) % number)))
    case("jpeg exif after the frame", whole[:whole.index(b"\xff\xc4")] + exif(tiff_of(6)) + whole[whole.index(b"\xff\xc4"):])


def main():
    jpegs()
    others(case, picture, tiff_of, ATTRIBUTE, ELEMENT)
    files, index, at = b"", [], 0
    for name, file, expect in CASES:
        index.append({"name": name, "at": len(files), "length": len(file), "expect": expect})
        files += file
    head = json.dumps({"pillow": Image.__version__ if hasattr(Image, "__version__") else "", "cases": index}, separators=(",", ":")).encode()
    data = struct.pack("<II", len(head), len(files)) + head + files + b"".join(POOL)
    packed = zstandard.ZstdCompressor(level=19).compress(data)
    open("matrix.zst", "wb").write(packed)
    print(len(CASES), "files,", sum(c[2] is None for c in CASES), "to be refused;", len(files), "bytes and",
          sum(map(len, POOL)), "of pixels in", len(packed))


if __name__ == "__main__":
    main()
