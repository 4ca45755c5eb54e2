//! Describes for the operator that an app listens somewhere else than it should. Pure.

use std::net::{IpAddr, SocketAddr};

/// Ports of debuggers and databases, which serve no pages.
const NOT_FOR_PAGES: [u16; 8] = [1099, 3306, 5005, 5432, 6379, 9229, 11_211, 27_017];

/// Returns what an operator should know of the addresses on which an app listens, or `None` if it listens on `port` of
/// the loopback. `sets_port` is whether the template has the setting `port`.
pub(super) fn describe(listeners: &[SocketAddr], port: u16, sets_port: bool) -> Option<String> {
    if listeners.iter().any(|listener| listener.port() == port && is_on_loopback(listener.ip())) {
        return None;
    }
    if listeners.is_empty() {
        return Some("it listens on no port".to_owned());
    }
    let names: Vec<String> = listeners.iter().map(SocketAddr::to_string).collect();
    let names = match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => names.concat(),
    };
    let mut candidates: Vec<u16> = listeners
        .iter()
        .filter(|listener| is_on_loopback(listener.ip()) && !NOT_FOR_PAGES.contains(&listener.port()))
        .map(SocketAddr::port)
        .collect();
    candidates.dedup();
    let remedy = match (candidates.as_slice(), sets_port) {
        ([only], true) => format!("set port = {only}"),
        ([_, _, ..], true) => "set port to the one that serves its pages".to_owned(),
        ([], true) => "have it listen on 127.0.0.1 or 0.0.0.0".to_owned(),
        (_, false) => "have it listen on the port in PORT".to_owned(),
    };
    Some(format!("it listens on {names}, not on {port}: {remedy}"))
}

/// Returns whether a listener at this address accepts connections to the loopback.
fn is_on_loopback(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(listeners: &[&str]) -> Option<String> {
        let listeners: Vec<SocketAddr> = listeners.iter().map(|text| text.parse().unwrap()).collect();
        describe(&listeners, 80, true)
    }

    #[test]
    fn the_description_names_every_listener_and_the_setting() {
        let expected = "it listens on 127.0.0.1:3000 and [::]:9229, not on 80: set port = 3000";
        assert_eq!(text(&["127.0.0.1:3000", "[::]:9229"]).as_deref(), Some(expected));
        let expected = "it listens on 0.0.0.0:3000, [::]:3000 and 127.0.0.1:5432, not on 80: set port = 3000";
        assert_eq!(text(&["0.0.0.0:3000", "[::]:3000", "127.0.0.1:5432"]).as_deref(), Some(expected));
        let expected =
            "it listens on [::1]:3000 and [::1]:4000, not on 80: set port to the one that serves its pages";
        assert_eq!(text(&["[::1]:3000", "[::1]:4000"]).as_deref(), Some(expected));
        let expected = "it listens on 10.1.2.3:80, not on 80: have it listen on 127.0.0.1 or 0.0.0.0";
        assert_eq!(text(&["10.1.2.3:80"]).as_deref(), Some(expected));
        assert_eq!(text(&[]).as_deref(), Some("it listens on no port"));
        let of_command = describe(&["0.0.0.0:3000".parse().unwrap()], 41_000, false).unwrap();
        assert_eq!(
            of_command,
            "it listens on 0.0.0.0:3000, not on 41000: have it listen on the port in PORT"
        );
    }

    #[test]
    fn an_app_that_listens_on_its_port_has_another_problem() {
        for listener in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(text(&[listener, "127.0.0.1:3000"]), None, "{listener}");
        }
    }
}
