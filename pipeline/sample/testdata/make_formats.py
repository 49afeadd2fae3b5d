"""Writes small BMP, TIFF, AVIF, JPEG XL, JPEG 2000, ICO, PNM, QOI and TGA files of every kind that is read, and damaged JPEGs, each with
the pixels that Pillow gives for it.

Run:  python make_formats.py        (Pillow 13.0.0, pillow-jxl-plugin 1.3.8; NAME.EXT and NAME.EXT.rgb, u8 [H, W, 3])

Transparency is pasted on white, orientation applied, 16-bit samples cut to their upper byte.
"""
import io, pathlib, struct, zlib
import numpy as np
import pillow_jxl
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
W, H = 37, 23
y, x = np.mgrid[0:H, 0:W]
rgb = np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x * 7 + y * 11) % 256], -1).astype(np.uint8)
alpha = ((x * 13 + y * 5) % 256).astype(np.uint8)
# For lossy coding: no noise.
smooth = np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x + y) * 255 // (W + H - 2)], -1).astype(np.uint8)
base, rgba = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, alpha]))
gray, palette, inks = base.convert("L"), base.quantize(16), base.convert("CMYK")
wide = rgb.astype(np.uint16) * 256 + (alpha[..., None].astype(np.uint16) * 3) % 256

def shown(image):
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")

def put(name, data, pixels=None):
    image = Image.open(io.BytesIO(data)); image.load()
    pixels = np.array(shown(image)) if pixels is None else pixels
    (HERE / name).write_bytes(data)
    (HERE / (name + ".rgb")).write_bytes(struct.pack("<II", pixels.shape[1], pixels.shape[0]) + pixels.tobytes())

def save(name, image, format=None, pixels=None, **options):
    buffer = io.BytesIO(); image.save(buffer, format or name.split(".")[-1].replace("jp2", "jpeg2000"), **options)
    put(name, buffer.getvalue(), pixels)

# BMP.
save("rgb.bmp", base)
save("gray.bmp", gray)
save("palette.bmp", palette)
save("bits1.bmp", base.convert("1"))
save("rgba.bmp", rgba)

def bmp(bits, compression, rows, palette=b"", header=40, masks=b"", height=H):
    info = struct.pack("<IiiHHIIiiII", header, W, height, 1, bits, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
    info += masks if header == 40 else masks.ljust(header - 40, b"\0")
    at = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + info + palette + rows

def rows(samples):
    return b"".join(row.tobytes().ljust(-(-len(row.tobytes()) // 4) * 4, b"\0") for row in samples[::-1])

short = (rgb[..., 0].astype(np.uint16) >> 3 << 10) | (rgb[..., 1].astype(np.uint16) >> 3 << 5) | (rgb[..., 2].astype(np.uint16) >> 3)
put("bits16.bmp", bmp(16, 0, rows(short)))
five_six = (rgb[..., 0].astype(np.uint16) >> 3 << 11) | (rgb[..., 1].astype(np.uint16) >> 2 << 5) | (rgb[..., 2].astype(np.uint16) >> 3)
put("bits565.bmp", bmp(16, 3, rows(five_six), masks=struct.pack("<III", 0xf800, 0x7e0, 0x1f)))
put("bits32.bmp", bmp(32, 0, rows(np.dstack([rgb[..., ::-1], alpha]))))
put("alpha_v5.bmp", bmp(32, 3, rows(np.dstack([rgb[..., ::-1], alpha])), header=124, masks=struct.pack("<IIII", 0xff0000, 0xff00, 0xff, 0xff000000)))
put("top_down.bmp", bmp(24, 0, rows(rgb[::-1, :, ::-1]), height=-H))
index = np.array(palette); colors = np.array(palette.getpalette()[:48], np.uint8).reshape(16, 3)
bgrx = np.dstack([colors[None, :, ::-1], np.zeros((1, 16, 1), np.uint8)]).tobytes()
four = np.pad(index, ((0, 0), (0, W % 2))); four = (four[:, 0::2] << 4) | four[:, 1::2]
put("bits4.bmp", bmp(4, 0, rows(four.astype(np.uint8)), bgrx))
runs = b""
for row in index[::-1]:
    at = 0
    while at < W:
        length = 1
        while at + length < W and row[at + length] == row[at]: length += 1
        runs += bytes([length, row[at]]); at += length
    runs += b"\0\0"
put("rle8.bmp", bmp(8, 1, runs + b"\0\1", bgrx))
core = struct.pack("<IHHHH", 12, W, H, 1, 24)
put("os2.bmp", b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + core + rows(rgb[..., ::-1]))

# TIFF.
for name, compression in [("raw", "raw"), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"), ("packbits", "packbits")]:
    save(f"{name}.tiff", base, compression=compression)
save("predictor.tiff", base, compression="tiff_lzw", tiffinfo={317: 2})
save("jpeg.tiff", Image.fromarray(smooth), compression="jpeg", quality=90)
save("group4.tiff", base.convert("1"), compression="group4")
save("bits1.tiff", base.convert("1"))
save("gray.tiff", gray)
save("gray_alpha.tiff", Image.merge("LA", [gray, Image.fromarray(alpha)]))
save("palette.tiff", palette)
save("cmyk.tiff", inks, compression="tiff_lzw")
save("rgba.tiff", rgba)
save("float.tiff", Image.fromarray(rgb[..., 2].astype(np.float32) * 2 - 100))
for turn in (3, 6, 8):
    save(f"turned{turn}.tiff", base, tiffinfo={274: turn})
save("pages.tiff", base, save_all=True, append_images=[Image.new("RGB", (9, 9))])

def tiff(entries, strips, order="<", tile=None):
    """A TIFF by its tags: (tag, type, values); the strips or tiles are appended."""
    place, data = 8, b""
    places = []
    for strip in strips:
        places.append(place + len(data)); data += strip
        if len(data) % 2: data += b"\0"
    entries = entries + [(324 if tile else 273, 4, places), (325 if tile else 279, 4, [len(s) for s in strips])]
    extra, directory = b"", b""
    at = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, kind, values in sorted(entries):
        packed = struct.pack(order + str(len(values)) + {1: "B", 3: "H", 4: "I"}[kind], *values)
        if len(packed) > 4:
            directory += struct.pack(order + "HHII", tag, kind, len(values), at + len(extra)); extra += packed
        else:
            directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(entries)) + directory + struct.pack(order + "I", 0) + extra

def tags(bits, photometric, more=(), planar=1, length=H):
    return [(256, 4, [W]), (257, 4, [H]), (258, 3, bits), (259, 3, [1]), (262, 3, [photometric]), (277, 3, [len(bits)]),
            (278, 4, [length]), (284, 3, [planar])] + list(more)

upper = (wide >> 8).astype(np.uint8)
put("rgb16.tiff", tiff(tags([16] * 3, 2), [wide.tobytes()]), upper)
put("rgb16_big_endian.tiff", tiff(tags([16] * 3, 2), [wide.astype(">u2").tobytes()], ">"), upper)
put("gray16.tiff", tiff(tags([16], 1), [wide[..., 2].tobytes()]), np.repeat(upper[..., 2:], 3, -1))
put("planes.tiff", tiff(tags([8] * 3, 2, planar=2), [rgb[..., c].tobytes() for c in range(3)]))
put("strips.tiff", tiff(tags([8] * 3, 2, length=5), [rgb[at:at + 5].tobytes() for at in range(0, H, 5)]))
put("white_is_zero.tiff", tiff(tags([8], 0), [np.array(gray).tobytes()]))
put("premultiplied.tiff", tiff(tags([8] * 4, 2, [(338, 3, [1])]), [np.dstack([(rgb.astype(np.uint16) * alpha[..., None] // 255).astype(np.uint8), alpha]).tobytes()]))
put("unused_channel.tiff", tiff(tags([8] * 4, 2, [(338, 3, [0])]), [np.dstack([rgb, alpha]).tobytes()]))
spread = [int(c) * 257 for channel in range(3) for c in colors[:, channel]]
put("palette4.tiff", tiff(tags([4], 3, [(320, 3, spread)]), [four.astype(np.uint8).tobytes()]))
bits4 = np.array(gray) >> 4; bits4 = np.pad(bits4, ((0, 0), (0, W % 2))); bits4 = (bits4[:, 0::2] << 4) | bits4[:, 1::2]
put("gray4.tiff", tiff(tags([4], 1), [bits4.astype(np.uint8).tobytes()]))
tiles = []
padded = np.pad(rgb, ((0, 32 - H), (0, 48 - W), (0, 0)))
for top in range(0, 32, 16):
    for left in range(0, 48, 16): tiles.append(padded[top:top + 16, left:left + 16].tobytes())
tiled = [t for t in tags([8] * 3, 2) if t[0] != 278] + [(322, 4, [16]), (323, 4, [16])]
put("tiles.tiff", tiff(tiled, tiles, tile=True))

# AVIF.
save("lossless.avif", Image.fromarray(smooth), quality=100, subsampling="4:4:4")
for sub in ("420", "422", "444"):
    save(f"sub{sub}.avif", Image.fromarray(smooth), quality=90, subsampling=":".join(sub))
save("gray.avif", Image.fromarray(smooth[..., 2]), quality=90, subsampling="4:0:0")
save("alpha.avif", Image.fromarray(np.dstack([smooth, alpha])), quality=95, subsampling="4:4:4")
save("limited.avif", Image.fromarray(smooth), quality=95, subsampling="4:4:4", range="limited")
for turn in range(2, 9):
    exif = Image.Exif(); exif[274] = turn
    save(f"turned{turn}.avif", Image.fromarray(smooth), quality=90, subsampling="4:4:4", exif=exif)

# JPEG XL.
save("lossless.jxl", base, lossless=True)
save("lossy.jxl", Image.fromarray(smooth), quality=90)
save("gray.jxl", gray, lossless=True)
save("alpha.jxl", rgba, lossless=True)

# JPEG 2000.
save("lossless.jp2", base)
save("gray.jp2", gray)
save("alpha.jp2", rgba)
save("lossy.jp2", Image.fromarray(smooth), irreversible=True, quality_mode="dB", quality_layers=[45])
save("bare.j2k", base, "jpeg2000", no_jp2=True)

# ICO.
save("sizes.ico", base.resize((64, 64)), sizes=[(16, 16), (48, 48), (32, 32)])
save("bitmap.ico", rgba.resize((32, 32)), sizes=[(32, 32), (16, 16)], bitmap_format="bmp")
mask = b"".join(bytes([0x0f] * 2) + b"\0\0" for _ in range(16))
dib = struct.pack("<IiiHHIIiiII", 40, 16, 32, 1, 8, 0, 0, 0, 0, 0, 0) + bgrx.ljust(1024, b"\0") + index[:16, :16][::-1].tobytes() + mask
put("masked.ico", b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 8, len(dib), 22) + dib)

# PNM.
save("rgb.ppm", base)
save("gray.pgm", gray, "ppm")
save("bits1.pbm", base.convert("1"), "ppm")
put("plain.ppm", b"P3\n# by hand\n%d %d\n255\n" % (W, H) + b" ".join(b"%d" % v for v in rgb.ravel()))
put("plain.pbm", b"P1\n%d %d\n" % (W, H) + b"\n".join(b" ".join(b"%d" % v for v in row) for row in (np.array(gray) > 99).astype(int)))
put("max31.ppm", b"P6 %d %d 31\n" % (W, H) + (rgb >> 3).tobytes())
put("wide.ppm", b"P6 %d %d 65535\n" % (W, H) + wide.astype(">u2").tobytes(), upper)
(HERE / "alpha.pam").write_bytes(b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" % (W, H) + np.dstack([rgb, alpha]).tobytes())
(HERE / "alpha.pam.rgb").write_bytes(struct.pack("<II", W, H) + np.array(shown(rgba)).tobytes())

# QOI, TGA.
save("rgb.qoi", base)
save("alpha.qoi", rgba)
end = struct.pack("<II", 0, 0) + b"TRUEVISION-XFILE.\0"
for name, image, options in [("rgb", base, {}), ("rle", rgba, {"compression": "tga_rle"}), ("gray", gray, {})]:
    buffer = io.BytesIO(); image.save(buffer, "tga", **options); data = buffer.getvalue()
    put(f"{name}.tga", data if data.endswith(end) else data + end)

# JPEGs that are damaged within, as Pillow reads them. A picture of more than one restart interval.
big = Image.fromarray(np.kron(smooth, np.ones((4, 4, 1), np.uint8)))
def jpeg(**options):
    buffer = io.BytesIO(); big.save(buffer, "jpeg", quality=85, **options); return bytearray(buffer.getvalue())
def scan(data): return data.rfind(b"\xff\xda") + 14
data = jpeg(restart_marker_blocks=4); at = data.index(b"\xff\xd2", scan(data)); data[at + 1] = 0xd5
put("wrong_restart.jpg", bytes(data))
data = jpeg(restart_marker_blocks=4); at = data.index(b"\xff\xd3", scan(data)); del data[at:at + 2]
put("lost_restart.jpg", bytes(data))
data = jpeg(restart_marker_blocks=4); at = data.index(b"\xff\xd1", scan(data)); del data[at + 4:at + 20]
put("cut_segment.jpg", bytes(data))
data = jpeg(); at = scan(data) + 300; data[at:at + 9] = bytes([0x5a] * 9)
put("bad_codes.jpg", bytes(data))
data = jpeg(progressive=True); at = len(data) // 2; data[at:at + 9] = bytes([0x5a] * 9)
put("bad_codes_progressive.jpg", bytes(data))
data = jpeg(); del data[scan(data) + 300:-2]
put("early_end.jpg", bytes(data))
