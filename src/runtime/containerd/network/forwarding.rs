//! What egress needs of this host's own network: that it forwards packets, and its default route.

use std::fs;

use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;

/// Makes this host forward packets, which routers do and other hosts do not.
///
/// # Errors
/// It does not forward packets, and that cannot be changed.
pub(super) fn forward_packets() -> Result<(), RuntimeError> {
    const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";
    let state = fs::read_to_string(SYSCTL).context(|| format!("read {SYSCTL}"))?;
    if state.trim() != "0" {
        return Ok(());
    }
    fs::write(SYSCTL, "1").map_err(|error| {
        RuntimeError::Start(format!(
            "instances cannot reach the internet: net.ipv4.ip_forward is 0 and cannot be set ({error}); as root: \
             sysctl -w net.ipv4.ip_forward=1"
        ))
    })?;
    tracing::warn!(
        "set net.ipv4.ip_forward to 1 because a template has egress; this host now forwards packets of other hosts \
         too, unless its own firewall forbids it"
    );
    Ok(())
}

/// Returns the link of the default route in `/proc/net/route`.
pub(super) fn default_link(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().copied().filter(|_| default)
    })
}
