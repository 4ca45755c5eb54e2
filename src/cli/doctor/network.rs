//! Checks the network of the host: what the networks of instances need, and wildcard DNS.
//!
//! **When the firewall's table changes** (`runtime/containerd/network/firewall_rules.rs`), the trial of `nft` here must
//! contain the same kinds of elements.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::check_result::CheckResult;
use super::tool::{ToolResult, run};
use crate::instance::{InstanceId, TemplateName};
use crate::runtime::containerd_process::{find_program, own_search_path};
use crate::template::egress::EgressSettings;

/// How long a DNS lookup may take.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// A tool that is tried in a network namespace of its own, which is removed when the tool ends.
struct Trial {
    check: &'static str,
    tool: &'static str,
    arguments: &'static [&'static str],
    works: &'static str,
    remedy: &'static str,
}

/// What only templates with `egress` need.
const EGRESS_TRIALS: [Trial; 3] = [
    Trial {
        check: "routes by port",
        tool: "ip",
        arguments: &["rule", "add", "priority", "200", "dport", "25", "unreachable"],
        works: "can be created, for templates with egress",
        remedy: "for egress: use Linux 4.17 or later with CONFIG_IP_MULTIPLE_TABLES",
    },
    Trial {
        check: "veth",
        tool: "ip",
        arguments: &["link", "add", "tin0", "type", "veth", "peer", "name", "tin1"],
        works: "pairs can be created, for templates with egress",
        remedy: "for egress: install iproute2 and load the kernel module veth",
    },
    Trial {
        check: "nftables",
        tool: "nft",
        // One element of each kind that the firewall of instances has.
        arguments: &["add table inet try-it-now-doctor; \
             add set inet try-it-now-doctor a { type ifname . ipv4_addr; }; \
             add set inet try-it-now-doctor b { type ipv4_addr; size 65535; flags dynamic; }; \
             add set inet try-it-now-doctor e { type ipv4_addr; flags dynamic,timeout; timeout 1m; }; \
             add chain inet try-it-now-doctor c { type filter hook forward priority filter; }; \
             add rule inet try-it-now-doctor c iifname . ip saddr @a reject with icmp admin-prohibited; \
             add rule inet try-it-now-doctor c ct state new add @b { ip saddr ct count over 1 } drop; \
             add rule inet try-it-now-doctor c tcp flags & (syn | ack) == syn update @e \
             { ip saddr limit rate over 1/second burst 2 packets } drop; \
             add rule inet try-it-now-doctor c ct status & confirmed == 0 drop; \
             add chain inet try-it-now-doctor d { type nat hook postrouting priority srcnat; }; \
             add rule inet try-it-now-doctor d masquerade"],
        works: "tables with sets, connection tracking and masquerading can be created, for templates with egress",
        remedy: "for egress: install nftables, and load the kernel modules nf_tables, nft_ct, nft_masq, nft_reject_inet \
                 and nft_connlimit",
    },
];

/// What the configuration needs of the network.
pub(super) struct NetworkNeeds<'a> {
    /// Whether instances are containers.
    pub(super) containers: bool,
    /// Whether any template has `egress`.
    pub(super) egress: bool,
    /// The settings of egress.
    pub(super) settings: &'a EgressSettings,
}

/// Checks network namespaces and what egress needs. Nothing of the host is changed.
pub(super) async fn check(needs: &NetworkNeeds<'_>) -> Vec<CheckResult> {
    let path = own_search_path();
    let unshare = find_program("unshare", &path);
    let tried = match &unshare {
        Some(unshare) => Some(run(unshare, &["-n", "true"]).await),
        None => None,
    };
    let mut results = vec![judge_namespaces(tried.as_ref(), needs.containers)];
    for trial in &EGRESS_TRIALS {
        let tried = match (&unshare, find_program(trial.tool, &path)) {
            (Some(unshare), Some(tool)) => {
                let tool = tool.to_string_lossy().into_owned();
                let arguments: Vec<_> =
                    ["-n", &tool].into_iter().chain(trial.arguments.iter().copied()).collect();
                Some(run(unshare, &arguments).await)
            }
            _ => None,
        };
        results.push(judge_trial(trial, tried.as_ref(), needs.egress));
    }
    results.push(judge_forwarding(forwarding().as_ref(), needs.egress));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    results.push(judge_range(needs.settings, &routes, needs.egress));
    results
}

/// Whether this host forwards packets, and whether this process could switch that on.
struct Forwarding {
    is_on: bool,
    is_settable: bool,
}

fn forwarding() -> io::Result<Forwarding> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    let on = std::fs::read_to_string(SWITCH)?.trim() != "0";
    Ok(Forwarding { is_on: on, is_settable: std::fs::OpenOptions::new().write(true).open(SWITCH).is_ok() })
}

fn judge_forwarding(found: Result<&Forwarding, &io::Error>, needed: bool) -> CheckResult {
    const CHECK: &str = "IP forwarding";
    let remedy = "for egress: sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d";
    match found {
        Ok(Forwarding { is_on: true, .. }) => CheckResult::ok(CHECK, "on (net.ipv4.ip_forward)"),
        Ok(Forwarding { is_settable: true, .. }) => {
            let found = "off; a server switches it on when it starts the first instance with egress";
            CheckResult::ok(CHECK, found)
        }
        Ok(_) => CheckResult::missing(CHECK, needed, "off, and this process cannot switch it on", remedy),
        Err(error) => CheckResult::missing(CHECK, needed, error.to_string(), remedy),
    }
}

fn judge_range(settings: &EgressSettings, routes: &str, needed: bool) -> CheckResult {
    const CHECK: &str = "egress addresses";
    match settings.conflicting_route(routes) {
        None => CheckResult::ok(CHECK, format!("{} is free", settings.range)),
        Some((network, link)) => {
            let found = format!("{} is in use: {link} routes {network}", settings.range);
            CheckResult::missing(
                CHECK,
                needed,
                found,
                "set EGRESS_RANGE to a private range that nothing here uses",
            )
        }
    }
}

fn judge_namespaces(tried: Option<&ToolResult>, needed: bool) -> CheckResult {
    const CHECK: &str = "network namespaces";
    match tried {
        Some(ToolResult::Succeeded(_)) => CheckResult::ok(CHECK, "can be created"),
        Some(ToolResult::Failed(why)) => {
            let remedy = "run the server as root, on a kernel with CONFIG_NET_NS, and not in a container without rights";
            CheckResult::missing(CHECK, needed, format!("cannot be created: {why}"), remedy)
        }
        None => CheckResult::warning(CHECK, "not tried: unshare is not in PATH", "install util-linux"),
    }
}

fn judge_trial(trial: &Trial, tried: Option<&ToolResult>, needed: bool) -> CheckResult {
    match tried {
        Some(ToolResult::Succeeded(_)) => CheckResult::ok(trial.check, trial.works),
        Some(ToolResult::Failed(why)) => {
            CheckResult::missing(trial.check, needed, why.as_str(), trial.remedy)
        }
        None => {
            // The server creates links and routes by itself, and tables with `nft`.
            let needed = needed && trial.tool == "nft";
            let found = format!("not tried: {} is not in PATH", trial.tool);
            CheckResult::missing(trial.check, needed, found, trial.remedy)
        }
    }
}

/// Checks whether the host name of a made-up instance resolves.
pub(super) async fn check_wildcard_dns(base_domain: &str) -> CheckResult {
    if is_local(base_domain) {
        return judge_wildcard(base_domain, None);
    }
    let id = InstanceId::random(&TemplateName::new("doctor").expect("it is a DNS label"));
    let name = format!("{id}.{base_domain}");
    let found = match timeout(LOOKUP_DEADLINE, lookup_host((name.as_str(), 80))).await {
        Ok(found) => found.map(|addresses| addresses.map(|address| address.ip()).collect()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    judge_wildcard(base_domain, Some(found))
}

fn is_local(base_domain: &str) -> bool {
    base_domain == "localhost" || base_domain.ends_with(".localhost")
}

/// A name may resolve to another address for visitors than for this host, so this check never fails.
fn judge_wildcard(base_domain: &str, found: Option<io::Result<Vec<IpAddr>>>) -> CheckResult {
    const CHECK: &str = "wildcard DNS";
    let remedy = format!("create a wildcard DNS record that resolves *.{base_domain} to this server");
    match found {
        None => CheckResult::ok(
            CHECK,
            format!("browsers resolve names under {base_domain} to this machine by themselves"),
        ),
        Some(Ok(addresses)) if !addresses.is_empty() => {
            let mut addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            addresses.dedup();
            CheckResult::ok(CHECK, format!("*.{base_domain} resolves to {}", addresses.join(", ")))
        }
        Some(Ok(_)) => CheckResult::warning(CHECK, format!("*.{base_domain} does not resolve"), remedy),
        Some(Err(why)) => {
            CheckResult::warning(CHECK, format!("*.{base_domain} does not resolve: {why}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn only_containers_need_network_namespaces() {
        let refused = ToolResult::Failed("Operation not permitted".to_owned());
        assert_eq!(judge_namespaces(Some(&refused), true).verdict, Verdict::Failed);
        assert_eq!(judge_namespaces(Some(&refused), false).verdict, Verdict::Warning);
        assert_eq!(judge_namespaces(Some(&ToolResult::Succeeded(String::new())), true).verdict, Verdict::Ok);
        assert_eq!(judge_namespaces(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn what_only_egress_needs_fails_only_where_a_template_has_egress() {
        let bad = ToolResult::Failed("x".to_owned());
        for trial in &EGRESS_TRIALS {
            assert_eq!(
                judge_trial(trial, Some(&ToolResult::Succeeded(String::new())), true).verdict,
                Verdict::Ok
            );
            assert_eq!(judge_trial(trial, Some(&bad), false).verdict, Verdict::Warning);
            assert_eq!(judge_trial(trial, Some(&bad), true).verdict, Verdict::Failed);
            assert!(judge_trial(trial, None, false).found.contains(trial.tool));
        }
        assert_eq!(
            EGRESS_TRIALS.map(|trial| judge_trial(&trial, None, true).verdict),
            [Verdict::Warning, Verdict::Warning, Verdict::Failed]
        );
    }

    #[test]
    fn egress_needs_forwarding_to_be_on_or_settable() {
        let of = |on, settable, needed| {
            judge_forwarding(Ok(&Forwarding { is_on: on, is_settable: settable }), needed).verdict
        };
        assert_eq!((of(true, false, true), of(false, true, true)), (Verdict::Ok, Verdict::Ok));
        assert_eq!((of(false, false, true), of(false, false, false)), (Verdict::Failed, Verdict::Warning));
    }

    #[test]
    fn the_addresses_for_egress_must_have_no_other_route() {
        let route =
            |base: u32| format!("head\nvpn\t{:08X}\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\n", base.to_be());
        let settings = EgressSettings::default();
        assert_eq!(judge_range(&settings, &route(0x0b00_0000), true).verdict, Verdict::Ok);
        let taken = judge_range(&settings, &route(0x0a00_0000), true);
        assert_eq!(taken.verdict, Verdict::Failed);
        assert_eq!(taken.found, "10.213.0.0/16 is in use: vpn routes 10.0.0.0/8");
    }

    #[test]
    fn names_under_localhost_always_resolve_and_others_need_a_record() {
        assert!(is_local("localhost") && is_local("a.localhost") && !is_local("notlocalhost"));
        assert_eq!(judge_wildcard("localhost", None).verdict, Verdict::Ok);
        let twice = vec!["10.0.0.1".parse().unwrap(); 2];
        assert_eq!(
            judge_wildcard("apps.example", Some(Ok(twice))).found,
            "*.apps.example resolves to 10.0.0.1"
        );
        for nothing in [Ok(vec![]), Err(io::ErrorKind::NotFound.into())] {
            let judged = judge_wildcard("apps.example", Some(nothing));
            assert_eq!(judged.verdict, Verdict::Warning);
            assert!(judged.remedy.unwrap().contains("*.apps.example"));
        }
    }
}
