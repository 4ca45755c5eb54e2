//! Archives of images as tools write them: an OCI layout in a tar file, as `docker save` writes it today, or the older
//! form of `docker save` with a `manifest.json` only, which is rewritten as an OCI layout. Either may be compressed with
//! gzip as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use serde_json::{Value, json};

use super::layout::{Descriptor, MAX_BLOB_BYTES, Manifest, find_for_host};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";

/// Most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// Most links from one file of an archive to another.
const MAX_LINKS: usize = 8;

/// Bytes of a file that are read at a time for its checksum.
const READ_BUFFER: usize = 1 << 20;

/// An archive whose image is known.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The digest of the image's manifest, or of the index of its platforms.
    pub(crate) digest: String,
    /// An OCI layout in a tar file, at its beginning.
    pub(crate) file: File,
}

/// The content of a tar file: where its files are.
#[derive(Default)]
struct Contents {
    /// Offset and size of each file.
    files: BTreeMap<PathBuf, (u64, u64)>,
    /// The target of each link, as a path in the archive.
    links: BTreeMap<PathBuf, PathBuf>,
}

/// An image in the older form of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    layers: Vec<PathBuf>,
}

impl Archive {
    /// Opens an archive. An archive of another form than a plain OCI layout is rewritten to a file without a name in the
    /// folder for temporary files.
    ///
    /// # Errors
    /// The file cannot be read, is no archive of an image, or does not contain exactly one image for this host.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = decompressed(File::open(path)?)?;
        let contents = Contents::read(&mut file).map_err(no_archive)?;
        let archive = if contents.has(INDEX) {
            let index: Manifest = contents.json(&mut file, INDEX)?;
            Self { digest: only_image(&index.manifests)?, file }
        } else if contents.has(DOCKER_MANIFEST) {
            let images: Vec<DockerImage> = contents.json(&mut file, DOCKER_MANIFEST)?;
            match images.as_slice() {
                [only] => rewrite(&mut file, &contents, only)?,
                several => return Err(number_of_images(several.len())),
            }
        } else {
            let why = "it is not an archive of an image: it has neither index.json nor manifest.json";
            return Err(io::Error::other(why));
        };
        (&archive.file).seek(SeekFrom::Start(0))?;
        Ok(archive)
    }

    /// Returns the `manifest.json` with which the layout is also an archive of the older form, which every engine can
    /// load, and the digest of the image's configuration. `name` is the name that the image gets.
    ///
    /// # Errors
    /// The layout cannot be read, or lacks a file that its index names.
    pub(crate) fn docker_manifest(&mut self, name: &str) -> io::Result<(String, String)> {
        self.file.seek(SeekFrom::Start(0))?;
        let contents = Contents::read(&mut self.file)?;
        let mut manifest: Manifest = contents.json(&mut self.file, &blob(&self.digest))?;
        for _ in 0..MAX_INDEXES {
            if manifest.config.is_some() {
                break;
            }
            let of_host = only_image(&manifest.manifests)?;
            manifest = contents.json(&mut self.file, &blob(&of_host))?;
        }
        self.file.seek(SeekFrom::Start(0))?;
        let config =
            manifest.config.ok_or_else(|| io::Error::other("its manifest names no configuration"))?;
        let layers: Vec<String> = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
        let manifest = json!([{ "Config": blob(&config.digest), "RepoTags": [name], "Layers": layers }]);
        Ok((manifest.to_string(), config.digest))
    }
}

/// Replaces what the reader of tar files says of a file that is none.
fn no_archive(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            io::Error::other("it is not an archive of an image: it is not a tar file, or only a part of one")
        }
        _ => error,
    }
}

fn number_of_images(number: usize) -> io::Error {
    io::Error::other(format!("it contains {number} images, not one"))
}

/// Returns the digest of the only image, or of the only one for this host.
fn only_image(manifests: &[Descriptor]) -> io::Result<String> {
    match manifests {
        [only] => Ok(only.digest.clone()),
        several if several.iter().all(|one| one.platform.is_some()) => {
            find_for_host(several).ok_or_else(|| number_of_images(several.len()))
        }
        several => Err(number_of_images(several.len())),
    }
}

impl Contents {
    fn read(file: &mut File) -> io::Result<Self> {
        let mut contents = Self::default();
        for entry in tar::Archive::new(file).entries_with_seek()? {
            let entry = entry?;
            let path = normal(&entry.path()?);
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name()?.unwrap_or_default();
                let folder =
                    if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                contents.links.insert(path.clone(), normal(&folder.join(target)));
            } else if kind.is_file() {
                contents.files.insert(path, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(contents)
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }

    /// Returns where a file is, or the file to which a link of this name leads.
    fn find(&self, name: &Path) -> io::Result<(u64, u64)> {
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            if let Some(found) = self.files.get(&name) {
                return Ok(*found);
            }
            let Some(target) = self.links.get(&name) else { break };
            name = target.clone();
        }
        Err(io::Error::other(format!("it has no {}", name.display())))
    }

    /// Returns a reader of a file.
    fn part<'a>(&self, file: &'a mut File, name: &Path) -> io::Result<io::Take<&'a mut File>> {
        let (offset, size) = self.find(name)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(size))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, file: &mut File, name: &str) -> io::Result<T> {
        Ok(serde_json::from_reader(self.part(file, Path::new(name))?.take(MAX_BLOB_BYTES as u64))?)
    }
}

/// Returns a path of an archive without a leading slash, `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => normal.push(part),
            Component::ParentDir => _ = normal.pop(),
            _ => {}
        }
    }
    normal
}

/// Returns the file itself, or if it is compressed what it contains, in a file without a name.
fn decompressed(mut file: File) -> io::Result<File> {
    let mut magic = Vec::new();
    (&mut file).take(ZSTD.len() as u64).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    if magic == ZSTD {
        return Err(io::Error::other("it is compressed with zstd: decompress it, or compress it with gzip"));
    }
    if !magic.starts_with(&GZIP) {
        return Ok(file);
    }
    let mut plain = temporary()?;
    io::copy(&mut MultiGzDecoder::new(io::BufReader::new(file)), &mut plain)?;
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

fn temporary() -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Writes an image of the older form as an OCI layout.
fn rewrite(file: &mut File, contents: &Contents, image: &DockerImage) -> io::Result<Archive> {
    let config = describe(file, contents, &image.config, "application/vnd.oci.image.config.v1+json")?;
    let layers = image
        .layers
        .iter()
        .map(|layer| {
            let mut magic = Vec::new();
            contents.part(file, layer)?.take(GZIP.len() as u64).read_to_end(&mut magic)?;
            let compression = if magic == GZIP { "+gzip" } else { "" };
            describe(file, contents, layer, &format!("application/vnd.oci.image.layer.v1.tar{compression}"))
        })
        .collect::<io::Result<Vec<Value>>>()?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers })
        .to_string();
    let digest = digest(manifest.as_bytes())?;
    let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": manifest.len() });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string();

    let mut layout = tar::Builder::new(temporary()?);
    append(&mut layout, "oci-layout", 30, br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice())?;
    append(&mut layout, INDEX, index.len() as u64, index.as_bytes())?;
    append(&mut layout, &blob(&digest), manifest.len() as u64, manifest.as_bytes())?;
    let mut written = BTreeSet::new();
    for (name, described) in
        [&image.config].into_iter().chain(&image.layers).zip([&config].into_iter().chain(&layers))
    {
        let digest = described["digest"].as_str().unwrap_or_default();
        if written.insert(digest.to_owned()) {
            let (_, size) = contents.find(name)?;
            append(&mut layout, &blob(digest), size, contents.part(file, name)?)?;
        }
    }
    Ok(Archive { digest, file: layout.into_inner()? })
}

fn append(layout: &mut tar::Builder<File>, name: &str, size: u64, content: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    layout.append_data(&mut header, name, content)
}

/// Returns the path of a blob in an OCI layout.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn describe(file: &mut File, contents: &Contents, name: &Path, media_type: &str) -> io::Result<Value> {
    let (_, size) = contents.find(name)?;
    let digest = digest(contents.part(file, name)?)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
}

fn digest(mut content: impl Read) -> io::Result<String> {
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(format!("sha256:{}", hex::encode(sum.finish().as_ref()))),
            read => sum.update(&buffer[..read]),
        }
    }
}
