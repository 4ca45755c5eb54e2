//! Values that follow from a number, so that a failed exchange can be repeated.

use ring::digest::{SHA256, digest};

/// Lines of nine bytes, each with its own number: the file that nginx and Node-RED serve.
pub(super) const NUMBERS_LENGTH: usize = 9 * 116_509;

/// A generator of pseudo-random values (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Returns a value below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    pub(super) fn token(&mut self) -> String {
        format!("{:016x}", self.next())
    }
}

/// Returns these bytes of the file of numbers.
pub(super) fn numbers(from: usize, length: usize) -> Vec<u8> {
    let lines = from / 9..(from + length).div_ceil(9);
    let text: String = lines.map(|line| format!("{line:08}\n")).collect();
    text.as_bytes()[from % 9..from % 9 + length].to_vec()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

#[test]
fn each_byte_of_the_file_of_numbers_is_known() {
    assert_eq!(numbers(0, 18), b"00000000\n00000001\n");
    assert_eq!(numbers(16, 4), b"1\n00");
    assert_eq!(
        sha256(&numbers(0, NUMBERS_LENGTH)),
        "cc3880033af36b60a3592e20306234792d252550936f06411fb55d63502a474e",
        "seq -f %08.0f 0 116508 | sha256sum"
    );
}
