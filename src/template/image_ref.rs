//! The container image of an app: an OCI archive on this host, or a reference to an image in a registry.
//!
//! References are parsed here and not by the crate `oci-spec`, whose parser accepts the port 0 and ports above 65535,
//! digests in capital letters and of other algorithms than SHA-256, and whose errors do not say what to write instead.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// The prefix of an archive's path.
const ARCHIVE: &str = "oci:";
/// The registry of a reference that names none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another host name of the default registry, as older references have it.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
/// The folder of images in the default registry whose reference names no user.
const OFFICIAL_FOLDER: &str = "library";
/// The tag of a reference that has neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";
/// Most bytes of a reference's registry and path together, as registries limit them.
const MAX_NAME_LENGTH: usize = 255;
/// Most bytes of a tag, as registries limit them.
const MAX_TAG_LENGTH: usize = 128;

const RULE: &str = "write a reference such as wordpress:6, ghcr.io/you/app@sha256:..., or oci: and the path of an \
                    OCI archive";

/// Where an app's image comes from. Equal values name the same tag, digest or archive; the content of a tag or an
/// archive may still change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum ImageRef {
    /// An OCI archive (a tar file) on this host.
    Tar(PathBuf),
    /// A complete reference: registry, path, and a tag or a digest or both.
    Reference(String),
}

impl ImageRef {
    /// Reads `oci:./app.tar`, relative to `folder`, or a reference in the notation of container engines: `wordpress`,
    /// `you/app:2`, `registry.example:5000/app@sha256:...`.
    ///
    /// # Errors
    /// The text is neither; the error says what to write.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, &'static str> {
        match text.strip_prefix(ARCHIVE) {
            Some(path) if path.is_empty() || path.contains('\0') => Err(RULE),
            // Without `.` parts, so that equal paths compare as equal.
            Some(path) => Ok(Self::Tar(folder.join(path).components().collect())),
            None => reference(text).map(Self::Reference),
        }
    }

    /// Returns the last part of the path without tag, digest and file extension, as a title for people.
    pub fn short_name(&self) -> &str {
        let name = match self {
            Self::Tar(path) => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            Self::Reference(reference) => reference.rsplit('/').next().unwrap_or_default(),
        };
        let end = match self {
            Self::Tar(_) => name.strip_suffix(".tar").map_or(name.len(), str::len),
            Self::Reference(_) => name.find([':', '@']).unwrap_or(name.len()),
        };
        &name[..end]
    }
}

/// Writes the complete reference, or `oci:` and the absolute path of the archive.
impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tar(path) => write!(f, "{ARCHIVE}{}", path.display()),
            Self::Reference(reference) => f.write_str(reference),
        }
    }
}

fn reference(text: &str) -> Result<String, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash separates a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry_host(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == OLD_DEFAULT_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let path = match path.contains('/') || registry != DEFAULT_REGISTRY {
        true => path.to_owned(),
        false => format!("{OFFICIAL_FOLDER}/{path}"),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("write the name of the image in small letters");
    }
    let is_valid = is_registry(registry)
        && path.split('/').all(is_component)
        && registry.len() + 1 + path.len() <= MAX_NAME_LENGTH
        && tag.is_none_or(is_tag);
    if !is_valid {
        return Err(RULE);
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("write the digest as sha256: and 64 hexadecimal digits in small letters");
    }
    let tag =
        tag.or(digest.is_none().then_some(DEFAULT_TAG)).map_or_else(String::new, |tag| format!(":{tag}"));
    let digest = digest.map_or_else(String::new, |digest| format!("@{digest}"));
    Ok(format!("{registry}/{path}{tag}{digest}"))
}

/// Returns whether the word before the first slash is the host of a registry. Otherwise it is a user of the default
/// registry.
fn is_registry_host(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0))
}

/// Returns whether a part of a path has lower-case letters and digits with separators between them: a dot, one or two
/// underscores, or dashes.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators
        .into_iter()
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(word)
        && text.len() <= MAX_TAG_LENGTH
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(text: &str) -> Result<ImageRef, &'static str> {
        ImageRef::parse(text, Path::new("/etc/tin"))
    }

    #[test]
    fn a_reference_is_completed() {
        let pinned = format!("ghcr.io/you/app@{DIGEST}");
        let both = format!("docker.io/library/nginx:1.27@{DIGEST}");
        for (text, full) in [
            ("wordpress", "docker.io/library/wordpress:latest"),
            ("wordpress:6", "docker.io/library/wordpress:6"),
            ("you/app:2", "docker.io/you/app:2"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b-c__d.e:V_1.2-x", "localhost:5000/a/b-c__d.e:V_1.2-x"),
            ("Registry.example/app", "Registry.example/app:latest"),
            ("10.0.0.1:5000/app", "10.0.0.1:5000/app:latest"),
            (&pinned, &pinned),
            (&format!("nginx:1.27@{DIGEST}"), &both),
        ] {
            assert_eq!(parse(text), Ok(ImageRef::Reference(full.to_owned())), "{text}");
            assert_eq!(parse(full), parse(text), "{full} reads as itself");
        }
    }

    #[test]
    fn a_reference_that_no_registry_accepts_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            " ",
            "a b",
            "WordPress",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:b:c",
            "a@",
            "a@sha256:12",
            "-a",
            "a-",
            "a._b",
            "a___b",
            "registry.example:x/a",
            "registry.example:0/a",
            "-r.example/a",
            "https://a/b",
            "docker://nginx",
            "a:-b",
            "ä",
            "a\n",
            &long,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("Shop").unwrap_err().contains("small letters"));
        assert!(parse(&format!("a@{}", DIGEST.to_uppercase())).unwrap_err().contains("digest"));
    }

    #[test]
    fn the_path_of_an_archive_is_relative_to_the_file_that_names_it() {
        for (text, path) in [
            ("oci:./app.tar", "/etc/tin/app.tar"),
            ("oci:a/./b.tar", "/etc/tin/a/b.tar"),
            ("oci:/c.tar", "/c.tar"),
        ] {
            let image = parse(text).unwrap();
            assert_eq!(image, ImageRef::Tar(path.into()));
            assert_eq!(image.to_string(), format!("oci:{path}"));
        }
        assert!(parse("oci:").is_err());
        assert!(parse("oci:a\0b").is_err());
    }

    #[test]
    fn an_image_has_a_short_name_for_people() {
        for (text, name) in [
            ("wordpress:6", "wordpress"),
            ("localhost:5000/you/shop", "shop"),
            ("oci:./build/shop.tar", "shop"),
            ("oci:shop", "shop"),
        ] {
            assert_eq!(parse(text).unwrap().short_name(), name);
        }
        assert_eq!(parse(&format!("you/app@{DIGEST}")).unwrap().short_name(), "app");
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_text_makes_reading_panic_and_a_complete_reference_reads_as_itself(
            text in "\\PC{0,30}|[a-z]{1,3}([./:@_-]{1,2}[a-zA-Z0-9]{1,3}){0,5}",
        ) {
            if let Ok(ImageRef::Reference(full)) = parse(&text) {
                prop_assert_eq!(parse(&full), Ok(ImageRef::Reference(full.clone())), "{}", text);
            }
        }
    }
}
