//! Pictures that somebody uploads: looked at before they are unpacked, cut to size, written anew.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::db::images::Size;

/// The widths that pages use: shelf and product page.
pub(crate) const WIDTHS: [u32; 2] = [320, 960];

/// The most dots of a picture. A picture of 17 KB can unpack to half a gigabyte.
const MOST_DOTS: u64 = 24_000_000;

/// The most bytes that unpacking may take.
const MOST_BYTES: u64 = 128 * 1024 * 1024;

const QUALITY: u8 = 82;

/// Why a picture is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    #[error("that is not a JPEG, PNG or WebP picture")]
    NotOne,
    #[error("the picture is too large: {0} × {1} dots; 24 million are the most")]
    TooLarge(u32, u32),
    #[error("the picture is too small: it should be at least 200 dots wide")]
    TooSmall,
    #[error("the picture is damaged")]
    Damaged(#[from] image::ImageError),
}

/// Reads a picture and answers it in the shop's sizes. Nothing but its dots is kept: no place, no camera, no
/// second file hidden in it.
pub(crate) fn cut(bytes: &[u8]) -> Result<Vec<Size>, PictureError> {
    let format = image::guess_format(bytes).map_err(|_| PictureError::NotOne)?;
    if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) {
        return Err(PictureError::NotOne);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_DOTS {
        return Err(PictureError::TooLarge(width, height));
    }
    if width < 200 || height < 100 {
        return Err(PictureError::TooSmall);
    }
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    WIDTHS.iter().map(|width| sized(&picture, *width)).collect()
}

fn sized(picture: &DynamicImage, width: u32) -> Result<Size, PictureError> {
    let small = if picture.width() > width || picture.height() > width * 2 {
        picture.thumbnail(width, width * 2)
    } else {
        picture.clone()
    };
    // What is transparent is white on the shelf, and would be black in a JPEG.
    let mut dots = image::RgbImage::from_pixel(small.width(), small.height(), image::Rgb([255, 255, 255]));
    for (to, from) in dots.pixels_mut().zip(small.to_rgba8().pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        let over = |part: u32| u8::try_from((part * alpha + 255 * (255 - alpha)) / 255).unwrap_or(255);
        to.0 = [over(red), over(green), over(blue)];
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&dots)?;
    // Named by the width that pages ask for, also when the picture is smaller.
    Ok(Size { width, height: dots.height(), jpeg })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::new_rgba8(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_is_cut_to_each_size_and_written_anew() {
        let sizes = cut(&png(1200, 900)).unwrap();
        let found: Vec<(u32, u32)> = sizes.iter().map(|size| (size.width, size.height)).collect();
        assert_eq!(found, [(320, 240), (960, 720)]);
        for size in sizes {
            let again = image::load_from_memory(&size.jpeg).unwrap().to_rgb8();
            assert_eq!(again.get_pixel(0, 0).0, [255, 255, 255], "transparent is white");
        }
    }

    #[test]
    fn what_hides_behind_a_picture_is_left_behind() {
        let mut polyglot = png(400, 400);
        polyglot.extend_from_slice(b"<script>alert(1)</script>");
        for size in cut(&polyglot).unwrap() {
            assert!(!size.jpeg.windows(7).any(|part| part == b"<script"));
        }
    }

    #[test]
    fn a_small_file_that_unpacks_to_a_huge_picture_is_refused_unread() {
        // A real PNG of 1 × 1 whose heading says 12 000 × 12 000; the checksum is set right.
        let mut bytes = png(1, 1);
        bytes[16..20].copy_from_slice(&12_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&12_000_u32.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        assert!(matches!(cut(&bytes), Err(PictureError::TooLarge(12_000, 12_000))), "{:?}", cut(&bytes));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }

    #[test]
    fn other_files_are_no_pictures() {
        for bytes in [&b""[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a\x01\x00", b"%PDF-1.7"]
        {
            assert!(matches!(cut(bytes), Err(PictureError::NotOne)));
        }
        assert!(matches!(cut(&png(400, 400)[..200]), Err(PictureError::Damaged(_))));
        assert!(matches!(cut(&png(20, 20)), Err(PictureError::TooSmall)));
    }
}
