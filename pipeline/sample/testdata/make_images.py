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
