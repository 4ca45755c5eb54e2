//! A host with an optional port, as it stands in `Host` and in an absolute-form target.

use std::net::Ipv6Addr;

/// Whether `raw` is `host [":" port]`: a non-empty reg-name or a bracketed IPv6 address, and a port of one to
/// five digits up to 65535. User information never passes.
pub(super) fn is_valid(raw: &[u8]) -> bool {
    let (host, port) = split(raw);
    let host_ok = match host {
        [b'[', inside @ .., b']'] => {
            std::str::from_utf8(inside).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
        }
        _ => is_reg_name(host),
    };
    host_ok && port.is_none_or(is_port)
}

/// Whether two valid authorities name the same host and port for a scheme whose default port is `default_port`. Case,
/// the default port and a trailing dot make no difference.
pub(super) fn is_same(a: &[u8], b: &[u8], default_port: &[u8]) -> bool {
    let ((host_a, port_a), (host_b, port_b)) = (split(a), split(b));
    let port = |port: Option<_>| port.filter(|p| *p != default_port);
    let bare = |host| <[u8]>::strip_suffix(host, b".").unwrap_or(host);
    port(port_a) == port(port_b) && bare(host_a).eq_ignore_ascii_case(bare(host_b))
}

/// Splits at the colon before the port. The colons inside brackets belong to the host.
fn split(raw: &[u8]) -> (&[u8], Option<&[u8]>) {
    let host_end = if raw.first() == Some(&b'[') {
        memchr::memchr(b']', raw).map_or(raw.len(), |i| i + 1)
    } else {
        memchr::memchr(b':', raw).unwrap_or(raw.len())
    };
    match &raw[host_end..] {
        [] => (raw, None),
        [b':', port @ ..] => (&raw[..host_end], Some(port)),
        // The bytes after the bracket are no port, so the whole is no valid host.
        _ => (raw, None),
    }
}

fn is_port(digits: &[u8]) -> bool {
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0')) <= 65535
}

fn is_reg_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'%' => match tail {
                [a, b, tail @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
                _ => return false,
            },
            b if b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b) => tail,
            _ => return false,
        };
    }
    !host.is_empty() && host != b"."
}
