//! An image archive in the form that every engine can load: an OCI layout with a `manifest.json` before it.

use std::fs::File;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::io::AsyncReadExt;

/// Bytes of the archive that are sent at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Tar files consist of blocks of this size.
const BLOCK_BYTES: usize = 512;

/// Returns the bytes of `layout`, a tar file, with one more file at its beginning.
///
/// # Errors
/// Never in practice: the name fits and the content is in memory.
pub(super) fn with_manifest(
    manifest: &str,
    layout: File,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let first = Bytes::from(tar_entry("manifest.json", manifest.as_bytes())?);
    let rest = stream::unfold(tokio::fs::File::from_std(layout), async |mut file| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(chunk)), file)),
            Err(error) => Some((Err(error), file)),
        }
    });
    Ok(stream::StreamExt::chain(stream::iter([Ok(first)]), rest))
}

/// Returns a file as an entry of a tar file, without the end of that file.
fn tar_entry(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(BLOCK_BYTES), 0);
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn the_manifest_comes_before_all_files_of_the_layout() {
        let mut layout = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        layout.append_data(&mut header, "oci-layout", b"abc".as_slice()).unwrap();
        let path = std::env::temp_dir().join(format!("tin-layout-{}", std::process::id()));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&layout.into_inner().unwrap()).unwrap();
        file.rewind().unwrap();
        let chunks: Vec<Bytes> = with_manifest("[{}]", file).unwrap().try_collect().await.unwrap();
        let all = chunks.concat();
        let mut archive = tar::Archive::new(all.as_slice());
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        let expected = [("manifest.json", "[{}]"), ("oci-layout", "abc")];
        assert_eq!(read.collect::<Vec<_>>(), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}
