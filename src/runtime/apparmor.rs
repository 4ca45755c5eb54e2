//! The AppArmor profile of instances, on hosts that have AppArmor and where the operator has loaded the profile.

use std::fs;
use std::path::Path;

/// The name of the profile in `deployments/apparmor/`.
pub const PROFILE: &str = "try-it-now-instance";

/// Whether a host confines instances by AppArmor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel has no AppArmor, or it is off.
    Absent,
    /// The kernel has AppArmor, and the profile is not loaded or does not deny anything.
    NotLoaded,
    /// The profile is loaded and enforced.
    Enforced,
}

impl AppArmor {
    /// Returns the state of the host whose file systems are below `root`.
    pub fn of_host(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        if read("sys/module/apparmor/parameters/enabled").trim() != "Y" {
            return Self::Absent;
        }
        let enforced = format!("{PROFILE} (enforce)");
        let profiles = read("sys/kernel/security/apparmor/profiles");
        if profiles.lines().any(|line| line == enforced) { Self::Enforced } else { Self::NotLoaded }
    }

    /// Returns the name of the profile for instances; `None` where they have none.
    pub fn profile(self) -> Option<&'static str> {
        (self == Self::Enforced).then_some(PROFILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enforced_profile_of_that_name_confines_instances() {
        let root = std::env::temp_dir().join(format!("try-it-now-apparmor-{}", uuid::Uuid::now_v7()));
        assert_eq!(AppArmor::of_host(&root), AppArmor::Absent);
        let write = |path: &str, content: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        };
        write("sys/module/apparmor/parameters/enabled", "Y\n");
        assert_eq!(AppArmor::of_host(&root), AppArmor::NotLoaded);
        for (profiles, expected) in [
            ("docker-default (enforce)\n", AppArmor::NotLoaded),
            ("try-it-now-instance (complain)\n", AppArmor::NotLoaded),
            ("try-it-now-instance-old (enforce)\n", AppArmor::NotLoaded),
            ("a (enforce)\ntry-it-now-instance (enforce)\n", AppArmor::Enforced),
        ] {
            write("sys/kernel/security/apparmor/profiles", profiles);
            assert_eq!(AppArmor::of_host(&root), expected, "{profiles}");
        }
        write("sys/module/apparmor/parameters/enabled", "N\n");
        assert_eq!(AppArmor::of_host(&root).profile(), None);
        fs::remove_dir_all(root).unwrap();
    }
}
