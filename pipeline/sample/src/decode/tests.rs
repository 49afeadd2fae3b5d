//! Decoding compared with Pillow's pixels (`testdata/`), and with truncated, wrong or hostile
//! files.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::test_data::own;

const LIMIT: u64 = 1 << 20;

/// Returns the largest difference of a sample to Pillow's.
fn difference(name: &str) -> u8 {
    let image = decode(&own(name), LIMIT).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = own(&format!("{name}.rgb"));
    let side = |at: usize| u32::from_le_bytes(expected[at..at + 4].try_into().unwrap());
    assert_eq!((image.width, image.height), (side(0), side(4)), "{name}");
    assert_eq!(image.pixels.len(), expected.len() - 8, "{name}");
    image.pixels.iter().zip(&expected[8..]).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn jpegs_of_every_kind_have_pillows_pixels() {
    let everyday = ["sub0.jpg", "sub1.jpg", "sub2.jpg", "progressive.jpg", "gray.jpg", "icc.jpg"];
    let rare = [
        "gray_progressive.jpg",
        "rgb.jpg",
        "restarts.jpg",
        "cmyk.jpg",
        "cmyk_unmarked.jpg",
        "ycck.jpg",
    ];
    for name in everyday.iter().chain(&rare) {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn flaws_of_a_colour_profile_cost_nothing() {
    let plain = own("sub0.jpg");
    let expected = decode(&plain, LIMIT).unwrap();
    let profile = |number: u8, of: u8| {
        let content = [b"ICC_PROFILE\0".as_slice(), &[number, of], &[7; 40]].concat();
        [&[0xFF, 0xE2], &(content.len() as u16 + 2).to_be_bytes(), content.as_slice()].concat()
    };
    for (what, segments) in [
        ("one of two", profile(1, 2)),
        ("the same twice", [profile(1, 2), profile(1, 2)].concat()),
        ("a number beyond the last", profile(3, 2)),
        ("number nought", profile(0, 1)),
        ("counts that differ", [profile(1, 2), profile(2, 3)].concat()),
    ] {
        let bytes = [&plain[..2], &segments, &plain[2..]].concat();
        assert!(decode(&bytes, LIMIT).as_ref() == Ok(&expected), "{what}");
        crate::probe(&bytes, LIMIT).unwrap();
        // Missing data is still detected.
        assert!(decode(&bytes[..bytes.len() - 200], LIMIT).is_err(), "{what}");
    }
}

#[test]
fn arithmetic_coding_and_lossless_jpeg_are_read() {
    let mut arithmetic = turbojpeg::Transform::default();
    arithmetic.arithmetic = true;
    let bytes = turbojpeg::transform(&arithmetic, &own("sub2.jpg")).unwrap();
    assert!(bytes.windows(2).any(|pair| pair == [0xFF, 0xC9]));
    assert_eq!(decode(&bytes, LIMIT).unwrap(), decode(&own("sub2.jpg"), LIMIT).unwrap());

    let image = decode(&own("rgb.png"), LIMIT).unwrap();
    let (width, height) = (image.width as usize, image.height as usize);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_lossless(true).unwrap();
    let source = turbojpeg::Image {
        pixels: image.pixels.as_slice(),
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    assert_eq!(decode(&compressor.compress_to_vec(source).unwrap(), LIMIT).unwrap(), image);
}

#[test]
fn jpeg_of_twelve_bits_is_refused_with_its_reason_by_the_probe_and_the_decoder() {
    let bytes = own("bits12.jpg");
    let error = decode(&bytes, LIMIT).unwrap_err();
    assert_eq!(error, crate::probe(&bytes, LIMIT).unwrap_err());
    assert!(
        error.to_string().contains("12 bits") && error.to_string().contains("convert"),
        "{error}"
    );
    assert_eq!(error.reason(), diptych_schemas::Reason::UnsupportedFormat);
}

#[test]
fn probe_of_each_file_says_the_size_that_pillow_shows() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(image) = name.strip_suffix(".rgb") else { continue };
        let expected = own(&name);
        let header =
            crate::probe(&own(image), LIMIT).unwrap_or_else(|error| panic!("{image}: {error}"));
        let format = match image.rsplit_once('.').unwrap().1 {
            "jpg" => "jpeg",
            "j2k" => "jp2",
            "ppm" | "pgm" | "pbm" | "pam" => "pnm",
            other => other,
        };
        let size = [header.width, header.height].map(u32::to_le_bytes).concat();
        assert_eq!((header.format.as_str(), size.as_slice()), (format, &expected[..8]), "{image}");
        seen += 1;
    }
    assert!(seen > 120, "{seen}");
}

#[test]
fn what_an_earlier_image_left_in_memory_is_not_seen() {
    for name in ["sub2.jpg", "gray.jpg", "cmyk.jpg", "turned6.jpg", "rgba.png"] {
        for length in [0, 10, 1 << 16] {
            let image = decode_reusing(&own(name), LIMIT, vec![171; length]).unwrap();
            assert_eq!(image, decode(&own(name), LIMIT).unwrap(), "{name}");
        }
    }
}

#[test]
fn exif_orientation_is_applied() {
    for orientation in 2..=8 {
        assert_eq!(difference(&format!("turned{orientation}.jpg")), 0, "{orientation}");
    }
    assert_eq!(difference("turned6.png"), 0);
}

#[test]
fn lossless_formats_have_pillows_pixels() {
    let pngs = [
        "rgb.png",
        "rgba.png",
        "gray_alpha.png",
        "palette.png",
        "palette_transparent.png",
        "bits1.png",
        "rgb16.png",
        "gray16.png",
        "rgba16.png",
        "palette_alpha.png",
        "rgb_key.png",
        "bits2.png",
        "bits4.png",
        "interlaced.png",
        "interlaced16.png",
        "interlaced_palette_alpha.png",
    ];
    let others = [
        "plain.webp",
        "alpha.webp",
        "animated.webp",
        "palette.gif",
        "frames.gif",
        "transparent.gif",
        "interlaced.gif",
        "local_palette.gif",
        "small_frame_transparent.gif",
    ];
    for name in pngs.iter().chain(&others) {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn gif_is_white_where_its_frame_leaves_the_canvas_open_as_browsers_leave_it_transparent() {
    // Pillow paints the colour that the header names as background there.
    let (image, pillow) =
        (decode(&own("small_frame.gif"), LIMIT).unwrap(), own("small_frame.gif.rgb"));
    for (at, (pixel, expected)) in image.pixels.chunks(3).zip(pillow[8..].chunks(3)).enumerate() {
        let inside = (6..26).contains(&(at % 37)) && (5..19).contains(&(at / 37));
        assert_eq!(pixel, if inside { expected } else { &[255; 3] }, "{at}");
    }
}

#[test]
fn lossy_webp_is_near_libwebps_pixels() {
    for name in ["lossy.webp", "lossy_alpha.webp"] {
        assert!(difference(name) <= 2, "{name}: {}", difference(name));
    }
}

/// Returns the files of `testdata` with one of these extensions.
fn files(extensions: &[&str]) -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let fits = |name: &String| extensions.contains(&name.rsplit_once('.').unwrap().1);
    names.filter(fits).collect()
}

#[test]
fn rarer_formats_have_pillows_pixels() {
    let exact = files(&[
        "bmp", "tiff", "ico", "ppm", "pgm", "pbm", "pam", "qoi", "tga", "jp2", "j2k", "jxl",
    ]);
    // Other decoders, and other rounding.
    let near = |name: &str| match name {
        "jpeg.tiff" | "lossy.jp2" | "lossy.jxl" => 3,
        // Five and six bits are spread over 0 … 255; Pillow rounds down.
        "bits16.bmp" | "bits565.bmp" => 1,
        _ => 0,
    };
    let far: Vec<_> = exact
        .iter()
        .map(|name| (name, difference(name)))
        .filter(|(name, difference)| *difference > near(name))
        .collect();
    assert!(exact.len() > 55, "{exact:?}");
    assert!(far.is_empty(), "{far:?}");
}

#[test]
fn avif_is_near_libavifs_pixels() {
    let all = files(&["avif"]);
    let far: Vec<_> =
        all.iter().map(|name| (name, difference(name))).filter(|(_, far)| *far > 3).collect();
    assert!(all.len() > 12, "{all:?}");
    assert!(far.is_empty(), "{far:?}");
}

#[test]
fn jpegs_damaged_within_have_the_pixels_that_pillow_gives() {
    for name in [
        "wrong_restart.jpg",
        "lost_restart.jpg",
        "cut_segment.jpg",
        "bad_codes.jpg",
        "bad_codes_progressive.jpg",
        "early_end.jpg",
    ] {
        assert_eq!(difference(name), 0, "{name}");
        // A truncated one is still refused.
        let bytes = own(name);
        let cut = &bytes[..bytes.len() - 40];
        assert!(matches!(decode(cut, LIMIT), Err(ImageError::CorruptPixels { .. })), "{name}");
    }
}

#[test]
fn oddities_that_pillow_passes_over_are_passed_over() {
    for name in
        ["jfif9.jpg", "stray_in_header.jpg", "stray_at_end.jpg", "junk_behind.jpg", "adobe7.jpg"]
    {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn files_cut_short_are_corrupt_and_never_half_a_picture() {
    for name in [
        "sub2.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "stray_at_end.jpg",
        "rgb16.png",
        "palette.gif",
        "lossy.webp",
        "rgb.bmp",
        "raw.tiff",
        "lzw.tiff",
        "sub420.avif",
        "lossless.jxl",
        "lossless.jp2",
        "sizes.ico",
        "rgb.ppm",
        "rgb.qoi",
    ] {
        let bytes = own(name);
        for keep in [bytes.len() - 8, bytes.len() * 3 / 4] {
            let error = decode(&bytes[..keep], LIMIT).expect_err(name);
            let corrupt = matches!(
                error,
                ImageError::CorruptPixels { .. } | ImageError::CorruptHeader { .. }
            );
            assert!(corrupt, "{name} cut at {keep}: {error}");
        }
    }
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in
        [&b""[..], b"GIF", b"<html><body>404</body></html>", b"%PDF-1.7", b"BM\x40\0\0\0\0\0\0\0"]
    {
        let error = decode(bytes, LIMIT).unwrap_err();
        assert!(matches!(error, ImageError::UnsupportedFormat { .. }), "{error}");
    }
}

#[test]
fn a_header_that_claims_too_many_pixels_is_refused_before_anything_is_allocated() {
    // 60,000 × 60,000 would be 10.8 GB.
    let mut png = own("rgb.png");
    png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let mut jpeg = own("sub0.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    let mut gif = own("palette.gif");
    gif[6..10].copy_from_slice(&[0x60, 0xEA, 0x60, 0xEA]);
    // The canvas of an extended WebP: 24 bits each way, less one.
    let mut webp = own("lossy_alpha.webp");
    assert_eq!(&webp[12..16], b"VP8X");
    webp[24..30].copy_from_slice(&[0x5F, 0xEA, 0, 0x5F, 0xEA, 0]);
    let mut bmp = own("rgb.bmp");
    bmp[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]);
    let mut tiff = own("raw.tiff");
    // Width, height, and rows of a strip, so that the number of strips stays right.
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    for index in 0..usize::from(tiff[directory]) {
        let entry = directory + 2 + 12 * index;
        let tag = u16::from_le_bytes([tiff[entry], tiff[entry + 1]]);
        if matches!(tag, 256 | 257 | 278) {
            tiff[entry + 2..entry + 12].copy_from_slice(&[4, 0, 1, 0, 0, 0, 0x60, 0xEA, 0, 0]);
        }
    }
    let mut avif = own("lossless.avif");
    let at = avif.windows(4).position(|four| four == b"ispe").unwrap() + 8;
    avif[at..at + 8].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut jp2 = own("bare.j2k");
    jp2[8..16].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut qoi = own("rgb.qoi");
    qoi[4..12].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let pnm = b"P6 60000 60000 255\n000".to_vec();
    let mut tga = own("rgb.tga");
    tga[12..16].copy_from_slice(&[0x60, 0xEA, 0x60, 0xEA]);
    for bytes in [png, jpeg, gif, webp, bmp, tiff, avif, jp2, qoi, pnm, tga] {
        let expected = ImageError::TooManyPixels {
            width: 60_000,
            height: 60_000,
            limit: diptych_schemas::MAX_PIXELS,
        };
        assert_eq!(decode(&bytes, diptych_schemas::MAX_PIXELS).unwrap_err(), expected);
    }
    assert!(matches!(
        decode(&own("lossy.webp"), 37 * 23 - 1),
        Err(ImageError::TooManyPixels { width: 37, height: 23, .. })
    ));
    assert!(decode(&own("lossy.webp"), 37 * 23).is_ok());
}

/// Creates a grey PNG of 8 bits.
fn gray_png(width: u32, height: u32) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    let image = image::GrayImage::from_pixel(width, height, image::Luma([200]));
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

#[test]
fn strip_that_is_too_long_to_be_resized_is_refused_by_the_probe_and_the_decoder() {
    use diptych_schemas::{MAX_PIXELS, MAX_SIDE};
    for (width, height) in [(1, MAX_SIDE), (MAX_SIDE, 1)] {
        let image = decode(&gray_png(width, height), MAX_PIXELS).unwrap();
        assert_eq!((image.width, image.height, image.pixels[0]), (width, height, 200));
    }
    for (width, height) in [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)] {
        let png = gray_png(width, height);
        let error = decode(&png, MAX_PIXELS).unwrap_err();
        assert_eq!(
            error,
            ImageError::TooLong { width: width.into(), height: height.into(), limit: MAX_SIDE }
        );
        assert_eq!(error.reason(), diptych_schemas::Reason::TooManyPixels);
        assert_eq!(crate::probe(&png, MAX_PIXELS).unwrap_err(), error);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn no_damage_makes_it_panic_or_lie_about_its_size(
        name in prop::sample::select(vec!["sub2.jpg", "progressive.jpg", "cmyk.jpg", "turned6.jpg",
            "rgba.png", "palette_transparent.png", "turned6.png", "lossy.webp", "alpha.webp",
            "frames.gif", "transparent.gif", "rle8.bmp", "alpha_v5.bmp", "lzw.tiff",
            "palette4.tiff", "group4.tiff", "jpeg.tiff", "tiles.tiff", "planes.tiff",
            "sub420.avif", "alpha.avif", "lossless.jxl", "lossy.jxl", "lossless.jp2", "lossy.jp2",
            "sizes.ico", "masked.ico", "plain.ppm", "alpha.pam", "alpha.qoi", "rle.tga"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = own(name);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let header = crate::probe(&bytes, LIMIT);
        if let Ok(image) = decode(&bytes, LIMIT) {
            if let Ok(header) = header {
                prop_assert_eq!((header.width, header.height), (image.width, image.height));
            }
            prop_assert_eq!(image.pixels.len(), 3 * image.width as usize * image.height as usize);
            prop_assert!(u64::from(image.width) * u64::from(image.height) <= LIMIT);
        }
    }
}
