//! Which way up a photograph is: the orientation that a camera writes (Exif 2.32, tag 0x0112).

use crate::image::buffer;
use deepseek_tensor::Result;

/// The orientation, 1 to 8, of a block of Exif data; 1, as it lies, where there is none that can be read.
pub(crate) fn orientation(exif: &[u8]) -> u8 {
    find(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)).unwrap_or(1)
}

/// Looks through the first directory of a TIFF structure.
fn find(tiff: &[u8]) -> Option<u8> {
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let b: [u8; 2] = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let word = |at: usize| {
        let b: [u8; 4] = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) })
    };
    let directory = word(4)? as usize;
    (0..usize::from(short(directory)?)).find_map(|i| {
        let entry = directory.checked_add(2 + 12 * i)?;
        // One unsigned short.
        let fits = short(entry)? == 0x0112 && short(entry + 2)? == 3 && word(entry + 4)? == 1;
        let value = short(entry + 8)?;
        (fits && (1..=8).contains(&value)).then_some(value as u8)
    })
}

/// RGB pixels turned upright: width, height, bytes.
pub(crate) fn upright(
    orientation: u8,
    width: usize,
    height: usize,
    pixels: Vec<u8>,
) -> Result<(usize, usize, Vec<u8>)> {
    if orientation <= 1 {
        return Ok((width, height, pixels));
    }
    let turned = orientation >= 5;
    let (w, h) = if turned { (height, width) } else { (width, height) };
    let mut out = buffer(pixels.len())?;
    for (y, row) in out.chunks_exact_mut(3 * w).enumerate() {
        for (x, to) in row.chunks_exact_mut(3).enumerate() {
            // Where the pixel of the upright image lies in the stored one.
            let (from_x, from_y) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            to.copy_from_slice(&pixels[(from_y * width + from_x) * 3..][..3]);
        }
    }
    Ok((w, h, out))
}
