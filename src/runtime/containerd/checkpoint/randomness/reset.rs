//! Changes the images of a checkpoint so that its instances seed their random number generators anew.
//!
//! Bytes change in place, in the images of pages: neither the list of mappings nor that of pages changes. So it does not
//! matter what happens to the images afterwards, and a bake that is interrupted leaves nothing to undo.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::generator_scan::GeneratorScan;
use super::openssl::{self, BYTES_BEFORE, NO_PROCESS};
use super::report::RandomNumbers;
use crate::runtime::containerd::checkpoint::sharing::{StoredMemory, StoredRange, for_each_process};

/// Bytes of an image that are read or written at a time: a multiple of the size of a page.
const CHUNK_BYTES: usize = 1 << 20;

/// Resets the random number generators in a checkpoint's images. A process whose images cannot be read stays as it is,
/// and is reported.
///
/// # Errors
/// An image of pages cannot be read or written, or the folder cannot be read.
pub(crate) fn reset(images: &Path, scan: &GeneratorScan) -> io::Result<RandomNumbers> {
    let mut report = RandomNumbers::default();
    scan.repeating.iter().for_each(|reason| report.add_repeating(reason.clone()));
    let mut failed = None;
    let visited = for_each_process(images, |pid, memory| {
        let reset = match memory {
            Ok((pages, memory)) => reset_process(&pages, &memory, pid, &mut report),
            Err(why) => {
                report.add_repeating(format!("process {pid}, whose memory is not examined: {why}"));
                return;
            }
        };
        match reset {
            Ok(generators) => {
                let unknown = scan.unknown_openssl.get(&pid).filter(|_| generators == 0);
                if let Some(path) = unknown {
                    report.add_repeating(format!(
                        "{path} has OpenSSL, and none of its generators is found: if the app draws numbers before the freeze, restart that process by a hook, or use OpenSSL 3"
                    ));
                }
            }
            Err(error) => failed = Some(error),
        }
    });
    visited.map_err(|why| io::Error::other(why.to_string()))?;
    failed.map_or(Ok(report), Err)
}

/// Resets the generators of one process. Returns how many of OpenSSL there are.
pub(super) fn reset_process(
    pages: &Path,
    memory: &StoredMemory,
    pid: u32,
    report: &mut RandomNumbers,
) -> io::Result<u64> {
    let pages = File::options().read(true).write(true).open(pages)?;
    for range in &memory.wiped_on_fork {
        clear(&pages, range)?;
        report.wiped_ranges += 1;
    }
    let mut generators = 0;
    for range in &memory.writable {
        generators += reset_openssl(&pages, range, pid)?;
    }
    report.openssl_generators += generators;
    Ok(generators)
}

/// Resets OpenSSL's generators in a range. A generator of another process, which forked this one, is seeded anew without
/// a change. Returns how many there are.
fn reset_openssl(pages: &File, range: &StoredRange, pid: u32) -> io::Result<u64> {
    let (mut buffer, mut count) = (Vec::new(), 0);
    let (mut at, end) = (range.stored_at, range.stored_at + range.length);
    while at < end {
        // The end of the chunk before comes first: a generator may begin there.
        let known = buffer.len();
        let new = (end - at).min(CHUNK_BYTES as u64);
        buffer.resize(known + new as usize, 0);
        pages.read_exact_at(&mut buffer[known..], at)?;
        let start = at - known as u64;
        for generator in openssl::find(&buffer, known) {
            count += 1;
            if generator.process == pid {
                pages.write_all_at(&NO_PROCESS.to_le_bytes(), start + generator.process_at as u64)?;
            }
        }
        at += new;
        buffer.drain(..buffer.len().saturating_sub(BYTES_BEFORE));
    }
    Ok(count)
}

/// Makes a range zero.
fn clear(pages: &File, range: &StoredRange) -> io::Result<()> {
    let zeros = vec![0; range.length.min(CHUNK_BYTES as u64) as usize];
    let (mut at, end) = (range.stored_at, range.stored_at + range.length);
    while at < end {
        let part = (end - at).min(zeros.len() as u64);
        pages.write_all_at(&zeros[..part as usize], at)?;
        at += part;
    }
    Ok(())
}
