"""Writes small images of every kind that Diptych decodes, each with the pixels that Pillow gives for it.

Run:  python make_images.py        (Pillow 13.0.0; NAME.EXT and NAME.EXT.rgb, u8 [H, W, 3])

Transparency is pasted on white, EXIF orientation applied, 16-bit samples cut to their upper byte.
"""
import io, pathlib, struct, zlib
import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
W, H = 37, 23
y, x = np.mgrid[0:H, 0:W]
rgb = np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x * 7 + y * 11) % 256], -1).astype(np.uint8)
alpha = ((x * 13 + y * 5) % 256).astype(np.uint8)
base = Image.fromarray(rgb)

def shown(image):
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")

def put(name, data, pixels=None):
    (HERE / name).write_bytes(data)
    image = Image.open(io.BytesIO(data)); image.load()
    pixels = np.array(shown(image)) if pixels is None else pixels
    (HERE / (name + ".rgb")).write_bytes(struct.pack("<II", pixels.shape[1], pixels.shape[0]) + pixels.tobytes())

def save(name, image, **options):
    buffer = io.BytesIO(); image.save(buffer, name.split(".")[-1].replace("jpg", "jpeg"), **options)
    put(name, buffer.getvalue())

def png16(color_type, samples, interlace=0):
    """A 16-bit PNG, which Pillow cannot write; the pixels expected are the upper bytes."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, color_type, 0, 0, interlace))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

for quality, sub in [(90, 0), (75, 1), (60, 2)]:
    save(f"sub{sub}.jpg", base, quality=quality, subsampling=sub)
save("progressive.jpg", base, quality=80, progressive=True)
save("gray.jpg", base.convert("L"), quality=80)
save("cmyk.jpg", base.convert("CMYK"), quality=90)
for orientation in range(2, 9):
    exif = Image.Exif(); exif[274] = orientation
    save(f"turned{orientation}.jpg", base, quality=85, exif=exif)
exif = Image.Exif(); exif[274] = 6
save("turned6.png", base, exif=exif)
save("rgb.png", base)
save("rgba.png", Image.fromarray(np.dstack([rgb, alpha])))
save("gray_alpha.png", Image.merge("LA", [base.convert("L"), Image.fromarray(alpha)]))
save("palette.png", base.quantize(16))
save("palette_transparent.png", base.quantize(16), transparency=3)
save("bits1.png", base.convert("1"))
wide = rgb.astype(np.uint16) * 256 + (alpha[..., None].astype(np.uint16) * 3) % 256
put("rgb16.png", png16(2, wide.reshape(H, -1)), (wide >> 8).astype(np.uint8))
put("gray16.png", png16(0, wide[..., 2]), np.repeat((wide[..., 2:] >> 8).astype(np.uint8), 3, -1))
save("plain.webp", base, lossless=True)
save("lossy.webp", base, quality=80)
save("alpha.webp", Image.fromarray(np.dstack([rgb, alpha])), lossless=True, exact=True)
save("palette.gif", base.quantize(32))
save("frames.gif", base.quantize(32), save_all=True, append_images=[Image.new("P", (W, H), 3)], duration=40)
save("transparent.gif", base.quantize(16), transparency=5)
# What is found in the wild: harmless oddities that Pillow passes over. Each has the pixels of sub2.jpg.
jpeg = (HERE / "sub2.jpg").read_bytes()
put("jfif9.jpg", jpeg[:11] + b"\x09" + jpeg[12:])
put("stray_in_header.jpg", jpeg[:20] + b"\0\0stray" + jpeg[20:])
put("stray_at_end.jpg", jpeg[:-2] + b"\0\0\0stray\0" + jpeg[-2:])
put("junk_behind.jpg", jpeg + b"\0" * 20 + b"junk")
adobe = bytearray((HERE / "cmyk.jpg").read_bytes()); at = adobe.find(b"Adobe") + 11; adobe[at] = 7
put("adobe7.jpg", bytes(adobe))

# Kinds of JPEG beside the everyday ones.
import imagecodecs  # 2026.3.6: YCCK and 12 bits, which Pillow does not write
inks = np.array(base.convert("CMYK"))
put("ycck.jpg", imagecodecs.jpeg8_encode(255 - inks, level=90, colorspace="CMYK", outcolorspace="YCCK"))
jpeg = (HERE / "cmyk.jpg").read_bytes(); at = jpeg.find(b"\xff\xee"); length = int.from_bytes(jpeg[at + 2:at + 4], "big")
put("cmyk_unmarked.jpg", jpeg[:at] + jpeg[at + 2 + length:])
save("rgb.jpg", base, quality=90, keep_rgb=True)
save("restarts.jpg", base, quality=85, restart_marker_blocks=2)
save("gray_progressive.jpg", base.convert("L"), quality=85, progressive=True)
from PIL import ImageCms
save("icc.jpg", base, quality=85, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
# Not read, by Pillow neither: only the file is kept.
wide12 = (rgb.astype(np.uint16) << 4)
(HERE / "bits12.jpg").write_bytes(imagecodecs.jpeg8_encode(wide12, level=90, bitspersample=12))

def png(depth, color_type, rows, more=b"", interlace=0):
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, color_type, 0, 0, interlace)) + more
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

def adam7(samples):
    """Rows of the seven passes, unfiltered. samples: u8 or big-endian u16 [H, W, C]"""
    rows = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = samples[y0::dy, x0::dx]
        if part.size: rows += b"".join(b"\0" + row.tobytes() for row in part)
    return rows

put("interlaced.png", png(8, 2, adam7(rgb), interlace=1))
put("interlaced16.png", png(16, 2, adam7(wide.astype(">u2")), interlace=1), (wide >> 8).astype(np.uint8))
quantized = base.quantize(16); palette = quantized.getpalette()[:48]
chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
colors = chunk(b"PLTE", bytes(palette)) + chunk(b"tRNS", bytes(range(0, 240, 24)))
put("interlaced_palette_alpha.png", png(8, 3, adam7(np.array(quantized)[..., None]), colors, interlace=1))
put("palette_alpha.png", png(8, 3, b"".join(b"\0" + row.tobytes() for row in np.array(quantized)), colors))
wide_alpha = np.dstack([wide, alpha.astype(np.uint16) * 257])
over_white = np.array(shown(Image.fromarray((wide_alpha >> 8).astype(np.uint8))))
put("rgba16.png", png16(6, wide_alpha.reshape(H, -1)), over_white)
gray = np.array(base.convert("L"))
for bits in [2, 4]:
    levels = gray >> (8 - bits)
    padded = np.pad(levels, ((0, 0), (0, -W % (8 // bits))))
    packed = sum(padded[:, i::8 // bits].astype(np.uint16) << (8 - bits * (i + 1)) for i in range(8 // bits)).astype(np.uint8)
    put(f"bits{bits}.png", png(bits, 0, b"".join(b"\0" + row.tobytes() for row in packed)))
# One colour is transparent, by tRNS without a palette.
flat = rgb.copy(); flat[5:15, 5:25] = (9, 8, 7)
put("rgb_key.png", png(8, 2, b"".join(b"\0" + row.tobytes() for row in flat.reshape(H, -1)), chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7))))

save("lossy_alpha.webp", Image.fromarray(np.dstack([rgb, alpha])), quality=80)
save("animated.webp", base, save_all=True, append_images=[Image.new("RGB", (W, H), (1, 200, 3))], duration=40, lossless=True)

def gif(frame, left=0, top=0, interlaced=False, background=0, transparent=None, local=False):
    """A GIF whose first frame may be smaller than its canvas of W × H, its rows interlaced, its palette its own."""
    width, height = frame.size
    colors = bytes((frame.getpalette() + [0] * 768)[:768])
    data = np.array(frame)
    if interlaced: data = np.concatenate([data[0::8], data[4::8], data[2::4], data[1::2]])
    # LZW without compression: a clear code before the code size would grow.
    bits, clear, end = 9, 256, 257
    codes = []
    for i, value in enumerate(data.reshape(-1).tolist()):
        if i % 250 == 0: codes.append(clear)
        codes.append(value)
    codes.append(end)
    packed, hold, held = bytearray(), 0, 0
    for code in codes:
        hold |= code << held; held += bits
        while held >= 8: packed.append(hold & 255); hold >>= 8; held -= 8
    if held: packed.append(hold & 255)
    blocks = b"".join(bytes([len(packed[i:i + 255])]) + packed[i:i + 255] for i in range(0, len(packed), 255)) + b"\0"
    control = b"" if transparent is None else b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    flags = (0x87 if local else 0) | (0x40 if interlaced else 0)
    return (b"GIF89a" + struct.pack("<HHBBB", W, H, 0x70 if local else 0xf7, background, 0) + (b"" if local else colors) + control
            + b"\x2c" + struct.pack("<HHHHB", left, top, width, height, flags) + (colors if local else b"") + b"\x08" + blocks + b"\x3b")

colored = base.quantize(32)
put("interlaced.gif", gif(colored, interlaced=True))
put("local_palette.gif", gif(colored, local=True))
small = base.crop((4, 3, 24, 17)).quantize(32)
put("small_frame.gif", gif(small, 6, 5))
put("small_frame_transparent.gif", gif(small, 6, 5, transparent=3))
