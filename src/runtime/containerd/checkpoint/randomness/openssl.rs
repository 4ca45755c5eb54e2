//! Finds OpenSSL's random number generators in the memory of a process. Pure.
//!
//! A generator stores the number of the process that it belongs to. When that is not the number of the process that
//! draws, the process is a child, and the generator is seeded anew from the system before it gives a number. Restored
//! instances have the numbers of their processes in common, so without a change they would not be seeded anew.
//!
//! Layouts: `struct prov_drbg_st` in OpenSSL 3 (`providers/implementations/rands/drbg_local.h`) and
//! `struct rand_drbg_st` in OpenSSL 1.1.1d and later (`crypto/rand/rand_local.h`), both on machines of 64 bits. In both,
//! the same fields lie before the interval of time after which a generator is seeded anew.
//!
//! # Traps
//! An app writes its memory as it likes. A place counts only if every field of the layout has a value that OpenSSL
//! gives it, so that no other memory is changed by accident; what an app imitates by intention is changed in its own
//! memory, in four bytes.

/// The number that a generator gets. No process has it: the kernel's limit is 2^22.
pub(super) const NO_PROCESS: u32 = 0x7fff_ffff;

/// Bytes of a layout before the field that is searched for.
pub(super) const BYTES_BEFORE: usize = 112;
/// Bytes of that field.
pub(super) const FIELD_BYTES: usize = 8;

/// The pairs of intervals that OpenSSL sets: seconds, and numbers drawn. The first is that of the generators of threads,
/// the second that of the one that seeds them.
const INTERVALS: [(u64, u32); 2] = [(420, 1 << 16), (3600, 1 << 8)];
/// Most bytes that a generator gives at once.
const MAX_REQUEST: u64 = 1 << 16;
/// Most bytes of any input of a generator.
const MAX_INPUT: u64 = i32::MAX as u64;
/// The strengths in bits of the generators that there are.
const STRENGTHS: [u32; 4] = [112, 128, 192, 256];
/// OpenSSL's numbers of AES in counter mode, the only kinds of generators in OpenSSL 1.1.1.
const AES_CTR: std::ops::RangeInclusive<u32> = 904..=906;

/// A generator in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generator {
    /// The offset of the number of its process.
    pub(super) process_at: usize,
    /// That number.
    pub(super) process: u32,
}

/// Returns the generators in memory whose searched field begins at `from` or later. The memory begins at an address
/// that is a multiple of 8.
pub(super) fn find(memory: &[u8], from: usize) -> impl Iterator<Item = Generator> {
    let first = from.max(BYTES_BEFORE).next_multiple_of(FIELD_BYTES);
    let fields = memory.get(first..).unwrap_or_default().as_chunks::<FIELD_BYTES>().0;
    let places = fields.iter().zip((first..).step_by(FIELD_BYTES));
    places.filter_map(move |(seconds, at)| {
        let seconds = u64::from_le_bytes(*seconds);
        let (_, numbers) = INTERVALS.into_iter().find(|(interval, _)| *interval == seconds)?;
        let before: &[u8; BYTES_BEFORE] = memory[at - BYTES_BEFORE..at].as_array()?;
        let process_before = process_before(before, numbers)?;
        let process = u32_before(before, process_before);
        // The first versions of 1.1.1 have the number of forks there.
        if process == 0 {
            return None;
        }
        Some(Generator { process_at: at - process_before, process })
    })
}

/// Returns how many bytes before the searched field a generator has the number of its process; `None` if the bytes
/// before the field are no generator.
fn process_before(before: &[u8; BYTES_BEFORE], numbers: u32) -> Option<usize> {
    let long =
        |bytes: usize| u64::from(u32_before(before, bytes)) | u64::from(u32_before(before, bytes - 4)) << 32;
    let is_range = |least: usize, most: usize| long(least) <= long(most) && long(most) <= MAX_INPUT;
    let is_generator = u32_before(before, 12) == numbers
        && long(72) == MAX_REQUEST
        && STRENGTHS.contains(&u32_before(before, 80))
        // The entropy, the nonce, and two optional inputs.
        && is_range(64, 56)
        && long(56) > 0
        && is_range(48, 40)
        && (1..=MAX_INPUT).contains(&long(32))
        && (1..=MAX_INPUT).contains(&long(24));
    if !is_generator {
        return None;
    }
    // In OpenSSL 3 the upper half of an address lies where 1.1.1 has the kind of generator.
    Some(if AES_CTR.contains(&u32_before(before, 108)) { 104 } else { 88 })
}

/// Returns the number that begins so many bytes before the end.
fn u32_before(before: &[u8; BYTES_BEFORE], bytes: usize) -> u32 {
    let at = BYTES_BEFORE - bytes;
    before[at..].first_chunk().map_or(0, |number| u32::from_le_bytes(*number))
}
