//! The header of a page in Thrift's compact protocol, as parquet writes it, with a checksum
//! inserted. Pure.

/// Header of a field of type i32 that directly follows the previous field number.
const NEXT_I32: u8 = 0x15;
/// Thrift's number for structures.
const STRUCTURE: u8 = 12;
/// `PageType.DICTIONARY_PAGE`, in zigzag encoding.
const DICTIONARY: u8 = 4;

/// Returns whether a header belongs to a dictionary.
pub(super) fn is_dictionary(header: &[u8]) -> bool {
    header.starts_with(&[NEXT_I32, DICTIONARY])
}

/// Adds the field `crc` (4) to a header of type (1), both sizes (2, 3) and one structure (5 to 8).
/// Returns `None` for any other header.
pub(super) fn with_crc(header: &[u8], crc: u32) -> Option<Vec<u8>> {
    let mut at = 0;
    for _ in 0..3 {
        if *header.get(at)? != NEXT_I32 {
            return None;
        }
        // The last byte of a number is the first one without the upper bit.
        at += 2 + header[at + 1..].iter().position(|byte| byte & 0x80 == 0)?;
    }
    let structure = *header.get(at)?;
    let (distance, kind) = (structure >> 4, structure & 0x0F);
    if kind != STRUCTURE || !(2..=5).contains(&distance) {
        return None;
    }
    let mut with = Vec::with_capacity(header.len() + 6);
    with.extend_from_slice(&header[..at]);
    with.push(NEXT_I32);
    put_i32(crc.cast_signed(), &mut with);
    with.push(((distance - 1) << 4) | kind);
    with.extend_from_slice(&header[at + 1..]);
    Some(with)
}

/// Writes a number in zigzag encoding, seven bits per byte, lowest first.
fn put_i32(number: i32, to: &mut Vec<u8>) {
    let mut left = ((number << 1) ^ (number >> 31)).cast_unsigned();
    while left >= 0x80 {
        to.push(left as u8 | 0x80);
        left >>= 7;
    }
    to.push(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_stands_between_the_sizes_and_the_structure() {
        // A data page (type 0) of 5 bytes, 200 uncompressed, with an empty structure as field 5.
        let header = [0x15, 0x00, 0x15, 0x90, 0x03, 0x15, 0x0A, 0x2C, 0x00, 0x00];
        let with = |crc| with_crc(&header, crc).unwrap();
        let start = [0x15, 0x00, 0x15, 0x90, 0x03, 0x15, 0x0A];
        // 1 is 2 in zigzag, -1 is 1.
        assert_eq!(with(1), [&start[..], &[0x15, 0x02, 0x1C, 0x00, 0x00]].concat());
        assert_eq!(with(u32::MAX), [&start[..], &[0x15, 0x01, 0x1C, 0x00, 0x00]].concat());
        assert_eq!(
            with(0x8000_0000),
            [&start[..], &[0x15, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x1C, 0x00, 0x00]].concat()
        );
        assert!(with_crc(&with(1), 1).is_none(), "it has one already");
        for end in 0..8 {
            assert!(with_crc(&header[..end], 1).is_none());
        }
        assert!(!is_dictionary(&header) && is_dictionary(&[0x15, 0x04, 0x15]));
    }
}
