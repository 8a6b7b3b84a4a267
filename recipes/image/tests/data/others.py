"""Files of the other formats, for matrix.py."""
import io, itertools, struct, zlib
import numpy as np
from PIL import Image

PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(samples, depth):
    """Lines of samples [height, width * channels] as bytes."""
    if depth == 16:
        return [line.astype(">u2").tobytes() for line in samples]
    if depth == 8:
        return [line.astype(np.uint8).tobytes() for line in samples]
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(line.reshape(-1).astype(np.uint8)).tobytes() for line in bits]


def png(samples, depth, colour, interlaced=False, before=b"", after=b""):
    height, width, channels = samples.shape
    lines = b""
    for x, y, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[y::dy, x::dx]
        if part.size:
            lines += b"".join(b"\0" + line for line in packed(part.reshape(len(part), -1), depth))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(lines, 9)) + after
            + chunk(b"IEND", b""))


def pngs(case, picture, tiff_of, attribute, element):
    rgb = picture(19, 23, 2)
    random = np.random.default_rng(4)
    palette = chunk(b"PLTE", bytes(random.integers(0, 256, 3 * 256, dtype=np.uint8)))
    for colour, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16)), (3, 1, (1, 2, 4, 8)), (4, 2, (8, 16)), (6, 4, (8, 16))):
        for depth, interlaced, size in itertools.product(depths, (False, True), ((19, 23), (3, 2), (1, 1))):
            base = picture(*size, seed=2).astype(int)
            base = np.concatenate([base, base[..., ::-1][..., :1]], -1)[..., :channels]
            samples = base * 257 + base // 3 if depth == 16 else base >> (8 - depth)
            samples = np.minimum(samples, (1 << depth) - 1)
            used = chunk(b"PLTE", palette[8:8 + (3 << depth)]) if colour == 3 else b""
            name = f"png colour {colour} depth {depth} {'interlaced ' if interlaced else ''}{size[1]}x{size[0]}"
            case(name, png(samples, depth, colour, interlaced, used))
            if colour in (0, 2, 3) and size == (19, 23):
                key = bytes([0, 90, 180]) if colour == 3 else samples[3, 4].astype(">u2").tobytes()
                case(name + " tRNS", png(samples, depth, colour, interlaced, used + chunk(b"tRNS", key[:2] if depth == 1 and colour == 3 else key)))
    small = picture(4, 6, 3).astype(int)
    write = lambda before=b"", after=b"": png(small, 8, 2, False, before, after)
    case("png with a gigabyte's profile", write(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 20), 9))))
    case("png with text", write(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 19), 9))))
    raw = lambda exif: b"\nexif\n%8d\n" % len(exif) + b"\n".join(
        exif.hex().encode()[i:i + 72] for i in range(0, 2 * len(exif), 72)) + b"\n"
    itxt = lambda key, text, pack: chunk(b"iTXt", key + b"\0" + bytes([pack]) + b"\0\0\0" + (zlib.compress(text) if pack else text))
    ztxt = lambda key, text: chunk(b"zTXt", key + b"\0\0" + zlib.compress(text))
    text = lambda key, text: chunk(b"tEXt", key + b"\0" + text)
    exif, xmp = b"Raw profile type exif", b"XML:com.adobe.xmp"
    for number in range(1, 9):
        tiff = tiff_of(number, "<>"[number % 2])
        case(f"png eXIf {number}", write(chunk(b"eXIf", tiff)))
        case(f"png eXIf after the image {number}", write(after=chunk(b"eXIf", tiff)))
        case(f"png raw profile {number}", write(ztxt(exif, raw(b"Exif\0\0" + tiff))))
        case(f"png XMP {number}", write(itxt(xmp, ((attribute, element)[number % 2] % number).encode(), number % 3 == 0)))
    six = tiff_of(6)
    for name, before, after in (
            ("raw profile in tEXt", text(exif, raw(six)), b""), ("raw profile in iTXt", itxt(exif, raw(six), 0), b""),
            ("raw profile in packed iTXt", itxt(exif, raw(six), 1), b""), ("raw profile after the image", b"", ztxt(exif, raw(six))),
            ("APP1 profile", ztxt(b"Raw profile type APP1", raw(b"Exif\0\0" + six)), b""),
            ("XMP in zTXt", ztxt(xmp, (attribute % 6).encode()), b""), ("XMP in tEXt", text(xmp, (element % 6).encode()), b""),
            ("XMP after the image", b"", itxt(xmp, (attribute % 6).encode(), 0)),
            ("eXIf beside XMP", chunk(b"eXIf", tiff_of(3)) + itxt(xmp, (attribute % 6).encode(), 0), b""),
            ("eXIf twice", chunk(b"eXIf", tiff_of(3)), chunk(b"eXIf", six)),
            ("eXIf with a header", chunk(b"eXIf", b"Exif\0\0" + six), b""),
            ("raw profile beside eXIf", ztxt(exif, raw(six)) + chunk(b"eXIf", tiff_of(3)), b""),
            ("raw profile with much behind it", ztxt(exif, raw(six + bytes(200000))), b"")):
        case("png " + name, write(before, after))
    whole = png(rgb.astype(int), 8, 2)
    data = whole.index(b"IDAT")
    for name, file in (("cut in the image", whole[:data + 60]), ("without the last bytes", whole[:-20]),
                       ("a bit", whole[:data + 30] + bytes([whole[data + 30] ^ 4]) + whole[data + 31:]),
                       ("half of the lines", png(rgb.astype(int)[:9], 8, 2).replace(struct.pack(">II", 23, 9), struct.pack(">II", 23, 19)))):
        case("png damage: " + name, file, True)


def lzw(indices, bits):
    """Codes of GIF, with a clear before the table is full."""
    clear, text, size, count = 1 << bits, [], bits + 1, 0
    put = lambda code: text.append(format(code, "0%db" % size)[::-1])
    put(clear)
    for index in indices:
        if count == (1 << bits) - 2:
            put(clear)
            count = 0
        put(int(index))
        count += 1
    put(clear + 1)
    joined = "".join(text)
    joined += "0" * (-len(joined) % 8)
    data = bytes(int(joined[i:i + 8][::-1], 2) for i in range(0, len(joined), 8))
    return b"".join(bytes([len(data[i:i + 255])]) + data[i:i + 255] for i in range(0, len(data), 255)) + b"\0"


def gif(screen, frame, indices, bits, palette=None, local=None, transparent=None, interlaced=False, background=0):
    table = lambda colours: (len(colours) // 3).bit_length() - 2
    flags = 0x80 | table(palette) if palette else 0
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, flags, background, 0) + (palette or b"")
    if transparent is not None:
        out += b"\x21\xf9\x04" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    flags = (0x80 | table(local) if local else 0) | (0x40 if interlaced else 0)
    out += b"," + struct.pack("<HHHHB", *frame, flags) + (local or b"")
    if interlaced:
        order = [*range(0, frame[3], 8), *range(4, frame[3], 8), *range(2, frame[3], 4), *range(1, frame[3], 2)]
        indices = indices[order]
    return out + bytes([bits]) + lzw(indices.reshape(-1), bits) + b";"


def gifs(case, picture):
    random = np.random.default_rng(6)
    for bits, interlaced, transparent in itertools.product((2, 8), (False, True), (None, 3)):
        palette = bytes(random.integers(0, 256, 3 << bits, dtype=np.uint8))
        local = bytes(random.integers(0, 256, 3 << bits, dtype=np.uint8))
        indices = picture(13, 17)[..., 0] >> (8 - bits)
        name = f"gif {bits} bits interlaced-{interlaced} transparent-{transparent}"
        full = (0, 0, 17, 13)
        case(name, gif((17, 13), full, indices, bits, palette, None, transparent, interlaced))
        case(name + " local", gif((17, 13), full, indices, bits, palette, local, transparent, interlaced))
        case(name + " in a corner", gif((25, 20), (5, 4, 17, 13), indices, bits, palette, None, transparent, interlaced, 2))
        case(name + " on a small screen", gif((9, 5), (2, 3, 17, 13), indices, bits, None, local, transparent, interlaced))
    palette = bytes(random.integers(0, 256, 12, dtype=np.uint8))
    case("gif with more indices than colours", gif((17, 13), (0, 0, 17, 13), picture(13, 17)[..., 0] >> 4, 4, palette))
    out = io.BytesIO()
    frames = [Image.fromarray(picture(12, 15, seed)) for seed in (1, 2, 3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    whole = out.getvalue()
    case("gif of three frames", whole)
    case("gif of Pillow", gif_of(frames[0].convert("L")))
    single = gif_of(frames[0].convert("P"))
    case("gif damage: cut", single[:-40], True)
    case("gif damage: no frame", whole[:13 + 768] + b";", True)


def gif_of(image):
    out = io.BytesIO()
    image.save(out, "GIF")
    return out.getvalue()


def bmp(samples, bits, head=40, masks=None, palette=b"", compression=0, data=None, top_down=False):
    height, width = samples.shape[:2]
    lines = packed(samples.reshape(height, -1), bits) if bits <= 8 else [
        line.astype({16: "<u2", 24: np.uint8, 32: "<u4"}[bits]).tobytes() for line in samples.reshape(height, -1)]
    if not top_down:
        lines = lines[::-1]
    data = data or b"".join(line + bytes(-len(line) % 4) for line in lines)
    colours = len(palette) // (3 if head == 12 else 4)
    if head == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", head, width, -height if top_down else height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
        info += b"".join(struct.pack("<I", m) for m in masks or ()) if head == 40 else (
            struct.pack("<IIII", *(masks or (0, 0, 0)), 0)[:16] + bytes(head - 56))
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


def bmps(case, picture):
    rgb = picture(11, 13, 2)
    random = np.random.default_rng(8)
    for bits in (1, 4, 8):
        palette = bytes(random.integers(0, 256, 4 << bits, dtype=np.uint8))
        palette = b"".join(palette[i:i + 3] + b"\0" for i in range(0, len(palette), 4))
        indices = rgb[..., 0] >> (8 - bits)
        case(f"bmp {bits} bits", bmp(indices, bits, palette=palette))
        case(f"bmp {bits} bits, top down", bmp(indices, bits, palette=palette, top_down=True))
        case(f"bmp {bits} bits of OS/2", bmp(indices, bits, 12, palette=b"".join(palette[i:i + 3] for i in range(0, len(palette), 4))))
    for head in (40, 12, 108, 124):
        case(f"bmp 24 bits head {head}", bmp(rgb[..., ::-1], 24, head))
    words = (rgb[..., 0].astype(int) << 16 | rgb[..., 1].astype(int) << 8 | rgb[..., 2]) | 0x55 << 24
    case("bmp 32 bits", bmp(words, 32))
    case("bmp 32 bits, top down", bmp(words, 32, top_down=True))
    case("bmp 32 bits by masks", bmp(words, 32, masks=(0xFF0000, 0xFF00, 0xFF), compression=3))
    five = (rgb[..., 0].astype(int) >> 3 << 10) | (rgb[..., 1].astype(int) >> 3 << 5) | rgb[..., 2] >> 3
    six = (rgb[..., 0].astype(int) >> 3 << 11) | (rgb[..., 1].astype(int) >> 2 << 5) | rgb[..., 2] >> 3
    case("bmp 16 bits", bmp(five, 16))
    case("bmp 16 bits by masks 555", bmp(five, 16, masks=(0x7C00, 0x3E0, 0x1F), compression=3))
    case("bmp 16 bits by masks 565", bmp(six, 16, masks=(0xF800, 0x7E0, 0x1F), compression=3))
    case("bmp 32 bits with alpha", bmp(words, 32, 56, masks=(0xFF0000, 0xFF00, 0xFF), compression=3).replace(
        struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0), struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)))
    palette = b"".join(bytes(random.integers(0, 256, 3, dtype=np.uint8)) + b"\0" for _ in range(256))
    lines = [b"\x05\x11" + b"\x00\x04\x01\x02\x03\x04" + b"\x04\x20" + b"\0\0" for _ in range(11)]
    case("bmp runs of 8 bits", bmp(rgb[..., 0], 8, palette=palette, compression=1, data=b"".join(lines) + b"\0\1"))
    lines = [b"\x05\x12" + b"\x00\x04\x34\x56" + b"\x04\x78" + b"\0\0" for _ in range(11)]
    case("bmp runs of 4 bits", bmp(rgb[..., 0], 4, palette=palette[:64], compression=2, data=b"".join(lines) + b"\0\1"))
    whole = bmp(rgb[..., ::-1], 24)
    case("bmp damage: cut", whole[:-30], True)
    case("bmp damage: head only", whole[:54], True)


def save(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(samples, bits, photometric, order="<", extra=(), formats=None, planar=1, rows=None, tags=(), pack=None, compression=1, predictor=1, tile=None):
    """Samples [height, width, count]."""
    height, width, count = samples.shape
    kind = np.dtype(order + "u2") if bits == 16 else np.uint8
    pieces = []
    for plane in [samples] if planar == 1 else [samples[..., i:i + 1] for i in range(count)]:
        if tile:
            for y, x in itertools.product(range(0, height, tile), range(0, width, tile)):
                part = plane[y:y + tile, x:x + tile]
                part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)))
                pieces.append(part)
        else:
            pieces += [plane[y:y + (rows or height)] for y in range(0, height, rows or height)]
    def encode(part):
        if predictor == 2:
            part = part.astype(int)
            part = np.concatenate([part[:, :1], np.diff(part, axis=1)], 1) & ((1 << bits) - 1)
        flat = part.reshape(len(part), -1)
        data = flat.astype(kind).tobytes() if bits >= 8 else b"".join(packed(flat, bits))
        return pack(data) if pack else data
    pieces = [encode(p) for p in pieces]
    found = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * count), (259, 3, [compression]), (262, 3, [photometric]),
             (277, 3, [count]), (284, 3, [planar]), (317, 3, [predictor])]
    if extra:
        found.append((338, 3, list(extra)))
    if formats:
        found.append((339, 3, [formats] * count))
    offsets, sizes = (324, 325) if tile else (273, 279)
    found += [(322, 4, [tile]), (323, 4, [tile])] if tile else [(278, 4, [rows or height])]
    found += list(tags) + [(sizes, 4, [len(p) for p in pieces])]
    start = 8 + sum(map(len, pieces))
    start += start % 2
    at, places = 8, []
    for piece in pieces:
        places.append(at)
        at += len(piece)
    found.append((offsets, 4, places))
    found.sort()
    directory, tail = struct.pack(order + "H", len(found)), b""
    after = start + 2 + 12 * len(found) + 4
    for tag, type_, values in found:
        data = b"".join(struct.pack(order + {1: "B", 3: "H", 4: "I"}[type_], v) for v in values)
        directory += struct.pack(order + "HHI", tag, type_, len(values))
        if len(data) <= 4:
            directory += data.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", after + len(tail))
            tail += data + bytes(len(data) % 2)
    body = b"".join(pieces)
    return ({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start) + body + bytes(len(body) % 2)
            + directory + bytes(4) + tail)


def tiffs(case, picture, attribute):
    rgb = picture(18, 20, 7)
    im = Image.fromarray(rgb)
    for mode, compression in itertools.product(("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"),
                                               (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")):
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 250) if mode == "I;16" else im.convert(mode)
        case(f"tiff {mode} {compression}", save(image, "TIFF", compression=compression))
    wide = rgb.astype(np.uint16) * 257 + rgb // 3
    for order, predictor in itertools.product("<>", (1, 2)):
        deflate = {"pack": zlib.compress, "compression": 8, "predictor": predictor}
        case(f"tiff RGB 16 {order} {predictor}", tiff(wide, 16, 2, order, **deflate))
        case(f"tiff grey 16 {order} {predictor}", tiff(wide[..., :1], 16, 1, order, **deflate))
        case(f"tiff RGB in tiles {order} {predictor}", tiff(rgb, 8, 2, order, tile=16, **deflate))
        case(f"tiff RGB in planes {order} {predictor}", tiff(rgb, 8, 2, order, planar=2, rows=8, **deflate))
        case(f"tiff RGB in strips {order} {predictor}", tiff(rgb, 8, 2, order, rows=5, **deflate))
    four = np.concatenate([rgb, 255 - rgb[..., :1]], -1)
    colours = [(320, 3, [int(v) * 257 for v in np.random.default_rng(3).integers(0, 256, 3 << 4)])]
    case("tiff RGBX", tiff(four, 8, 2, extra=[0]))
    case("tiff RGBA", tiff(four, 8, 2, extra=[2]))
    case("tiff RGBA multiplied", tiff(np.concatenate([rgb // 2, np.full_like(rgb[..., :1], 128)], -1), 8, 2, extra=[1]))
    case("tiff RGBA 16", tiff(np.concatenate([wide, wide[..., :1]], -1), 16, 2, extra=[2]))
    case("tiff CMYK 16", tiff(np.concatenate([wide, wide[..., :1] // 3], -1), 16, 5))
    for bits in (1, 2, 4, 8):
        case(f"tiff grey {bits}", tiff(rgb[..., :1] >> (8 - bits), bits, 1, rows=4))
        case(f"tiff white is 0 {bits}", tiff(rgb[..., :1] >> (8 - bits), bits, 0))
    case("tiff palette 4", tiff(rgb[..., :1] >> 4, 4, 3, tags=colours))
    case("tiff palette 4, big end", tiff(rgb[..., :1] >> 4, 4, 3, ">", tags=colours))
    small = picture(4, 6, 3)
    for number in range(1, 9):
        case(f"tiff orientation {number}", tiff(small, 8, 2, "<>"[number % 2], tags=[(274, 3, [number])]))
    case("tiff orientation as long", tiff(small, 8, 2, tags=[(274, 4, [6])]))
    case("tiff orientation in XMP", tiff(small, 8, 2, tags=[(700, 1, list((attribute % 6).encode()))]))
    case("tiff of BigTIFF", save(im, "TIFF", big_tiff=True))
    out = io.BytesIO()
    im.save(out, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    case("tiff of two pages", out.getvalue())
    whole = save(im, "TIFF", compression="tiff_lzw")
    case("tiff damage: cut", whole[:len(whole) // 2], True)
    case("tiff damage: no directory", whole[:8], True)
    case("tiff refused: JPEG inside", save(im, "TIFF", compression="jpeg"), True)
    case("tiff refused: floats", save(Image.fromarray(np.ones((5, 5), np.float32)), "TIFF"), True)


def riff(*chunks):
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webps(case, picture, tiff_of, attribute):
    rgb = picture(21, 26, 7)
    im = Image.fromarray(rgb)
    alpha = np.concatenate([rgb, (np.indices((21, 26)).sum(0) * 5 % 256).astype(np.uint8)[..., None]], -1)
    with_alpha = Image.fromarray(alpha)
    image = lambda data: (data[12:16], data[20:20 + struct.unpack("<I", data[16:20])[0]])
    u24 = lambda value: struct.pack("<I", value)[:3]
    head = lambda flags, size=(26, 21): (b"VP8X", struct.pack("<I", flags) + u24(size[0] - 1) + u24(size[1] - 1))
    for quality in (10, 80):
        case(f"webp lossy {quality}", save(im, "WEBP", quality=quality))
        case(f"webp lossy with alpha {quality}", save(with_alpha, "WEBP", quality=quality, exact=True))
    for method in (0, 6):
        case(f"webp lossless {method}", save(im, "WEBP", lossless=True, method=method))
        case(f"webp lossless with alpha {method}", save(with_alpha, "WEBP", lossless=True, method=method, exact=True))
    lossy, lossless = image(save(im, "WEBP")), image(save(im, "WEBP", lossless=True))
    for flags, name in ((0x08, "EXIF"), (0x04, "XMP"), (0x20, "ICCP"), (0x10, "alpha"), (0x3C, "all")):
        case(f"webp announces {name}", riff(head(flags), lossy))
        case(f"webp lossless announces {name}", riff(head(flags), lossless))
    for number in range(1, 9):
        tiff = tiff_of(number, "<>"[number % 2], 3 + number % 2)
        case(f"webp exif {number}", riff(head(8), lossy, (b"EXIF", b"Exif\0\0" * (number % 3) + tiff)))
    case("webp XMP", riff(head(4), lossy, (b"XMP ", (attribute % 6).encode())))
    case("webp exif that is not announced", riff(head(0), lossy, (b"EXIF", tiff_of(6))))
    case("webp with an unknown chunk", riff(head(0), (b"WHAT", b"abc"), lossy))
    case("webp with a trailer", riff(lossy) + b"trailer")
    out = io.BytesIO()
    im.save(out, "WEBP", save_all=True, append_images=[Image.fromarray(picture(21, 26, 9))], lossless=True)
    case("webp animation", out.getvalue())
    out = io.BytesIO()
    with_alpha.save(out, "WEBP", save_all=True, append_images=[im], quality=70)
    case("webp animation with alpha", out.getvalue())
    frame = u24(2) + u24(3) + u24(25) + u24(20) + u24(100) + b"\0" + riff(lossy)[12:]
    case("webp animation in a corner", riff(head(2, (40, 35)), (b"ANIM", bytes(6)), (b"ANMF", frame)))
    whole = save(im, "WEBP")
    case("webp damage: cut", whole[:-40], True)
    case("webp damage: no image", riff(head(0)), True)


def others(case, picture, tiff_of, attribute, element):
    pngs(case, picture, tiff_of, attribute, element)
    gifs(case, picture)
    bmps(case, picture)
    tiffs(case, picture, attribute)
    webps(case, picture, tiff_of, attribute)
