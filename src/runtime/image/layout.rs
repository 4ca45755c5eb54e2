//! The files of an OCI layout that name an image. Pure.

use serde::Deserialize;

/// Most bytes of a manifest or a configuration; registries allow 4 MiB.
pub(crate) const MAX_BLOB_BYTES: usize = 4 << 20;

/// The operating system of this host, as images name it.
pub(crate) const HOST_OS: &str = "linux";

/// Returns the architecture of this host, as images name it.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Deserialize)]
pub(crate) struct Descriptor {
    pub(crate) digest: String,
    pub(crate) platform: Option<ManifestPlatform>,
}

#[derive(Deserialize)]
pub(crate) struct ManifestPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// An index or a manifest. A media type would tell which; the fields do so too.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// Returns the digest of the manifest for this host. Where several variants of its architecture are named, the one that
/// every processor of the architecture runs comes first, and one for newer processors never.
pub(crate) fn find_for_host(manifests: &[Descriptor]) -> Option<String> {
    let architecture = host_architecture();
    let basic = match architecture {
        "arm64" => "v8",
        _ => "v1",
    };
    let fits = |one: &&Descriptor| {
        one.platform.as_ref().is_none_or(|platform| {
            platform.os == HOST_OS
                && platform.architecture == architecture
                && (platform.variant.is_empty() || platform.variant == basic)
        })
    };
    // An entry without a platform may be anything, so it comes last.
    let stated = manifests.iter().filter(|one| one.platform.is_some()).find(fits);
    stated.or_else(|| manifests.iter().find(fits)).map(|one| one.digest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_this_platform_is_chosen() {
        let platform = |os: &str, architecture: &str| {
            let (os, architecture, variant) = (os.into(), architecture.into(), String::new());
            Some(ManifestPlatform { os, architecture, variant })
        };
        let here = host_architecture();
        let manifests = [
            Descriptor { digest: "a".into(), platform: platform("windows", here) },
            Descriptor { digest: "b".into(), platform: platform("linux", here) },
        ];
        assert_eq!(find_for_host(&manifests), Some("b".to_owned()));
        assert_eq!(find_for_host(&manifests[..1]), None);
        let mut newer = platform("linux", here);
        newer.as_mut().unwrap().variant = "v9".to_owned();
        let mut attestation = platform("unknown", "unknown");
        attestation.as_mut().unwrap().variant.clear();
        let variants = [
            Descriptor { digest: "c".into(), platform: attestation },
            Descriptor { digest: "d".into(), platform: newer },
            Descriptor { digest: "e".into(), platform: None },
            Descriptor { digest: "f".into(), platform: platform("linux", here) },
        ];
        assert_eq!(find_for_host(&variants), Some("f".to_owned()));
        assert_eq!(find_for_host(&variants[..3]), Some("e".to_owned()));
        assert_eq!(find_for_host(&variants[..2]), None);
    }
}
