//! ZIP files.

/// Returns a ZIP file with this file, not compressed.
pub(crate) fn zip(name: &str, content: &str) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    let size = number(content.len());
    // Version 2.0, no flags, stored, midnight of the first day of 1980.
    let mut entry = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    entry.extend([crc32(content.as_bytes()).to_le_bytes(), size, size].concat());
    entry.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
    entry.extend([0, 0]);
    let file = [b"PK\x03\x04", entry.as_slice(), name.as_bytes(), content.as_bytes()].concat();
    let directory = [b"PK\x01\x02\x14\0", entry.as_slice(), &[0; 14], name.as_bytes()].concat();
    let end = [
        b"PK\x05\x06\0\0\0\0\x01\0\x01\0".as_slice(),
        &number(directory.len()),
        &number(file.len()),
        &[0, 0],
    ];
    [file, directory, end.concat()].concat()
}

/// Returns the checksum of ZIP files.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
