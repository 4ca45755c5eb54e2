//! Networks of instances, and the names by which visitors find them.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::check_result::CheckResult;
use super::command::{Ended, run};
use crate::instance::{InstanceId, TemplateName};
use crate::runtime::containerd_process::{find, own_path};
use crate::template::egress::EgressSettings;

const PATIENCE: Duration = Duration::from_secs(5);

/// A tool of others, tried out in a network of its own that goes when the tool ends.
struct Trial {
    check: &'static str,
    tool: &'static str,
    arguments: &'static [&'static str],
    works: &'static str,
    remedy: &'static str,
}

/// What a template that lets its instances into the internet needs, and no other.
const EGRESS: [Trial; 2] = [
    Trial {
        check: "veth",
        tool: "ip",
        arguments: &["link", "add", "tin0", "type", "veth", "peer", "name", "tin1"],
        works: "pairs can be made, for templates with egress",
        remedy: "for egress: install iproute2 and load the kernel module veth",
    },
    Trial {
        check: "nftables",
        tool: "nft",
        // One of each kind of what the firewall of instances is made of.
        arguments: &["add table inet try-it-now-doctor; \
             add set inet try-it-now-doctor a { type ifname . ipv4_addr; }; \
             add set inet try-it-now-doctor b { type ipv4_addr; size 65535; flags dynamic; }; \
             add chain inet try-it-now-doctor c { type filter hook forward priority filter; }; \
             add rule inet try-it-now-doctor c iifname . ip saddr @a reject with icmp admin-prohibited; \
             add rule inet try-it-now-doctor c ct state new add @b { ip saddr ct count over 1 } drop; \
             add chain inet try-it-now-doctor d { type nat hook postrouting priority srcnat; }; \
             add rule inet try-it-now-doctor d masquerade"],
        works: "tables with sets, connection tracking and masquerading can be made, for templates with egress",
        remedy: "for egress: install nftables, and load the kernel modules nf_tables, nft_ct, nft_masq, nft_reject_inet \
                 and nft_connlimit",
    },
];

/// What this host's network is asked.
pub(super) struct Wanted<'a> {
    /// Whether instances are containers.
    pub(super) containers: bool,
    /// Whether a template has `egress`.
    pub(super) egress: bool,
    /// How instances would be let out.
    pub(super) outside: &'a EgressSettings,
}

pub(super) async fn examine(wanted: &Wanted<'_>) -> Vec<CheckResult> {
    let path = own_path();
    let unshare = find("unshare", &path);
    let tried = match &unshare {
        Some(unshare) => Some(run(unshare, &["-n", "true"]).await),
        None => None,
    };
    let mut findings = vec![judge_namespaces(tried.as_ref(), wanted.containers)];
    for trial in &EGRESS {
        let tried = match (&unshare, find(trial.tool, &path)) {
            (Some(unshare), Some(tool)) => {
                let tool = tool.to_string_lossy().into_owned();
                let arguments: Vec<_> =
                    ["-n", &tool].into_iter().chain(trial.arguments.iter().copied()).collect();
                Some(run(unshare, &arguments).await)
            }
            _ => None,
        };
        findings.push(judge_trial(trial, tried.as_ref(), wanted.egress));
    }
    findings.push(judge_forwarding(forwarding().as_ref(), wanted.egress));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    findings.push(judge_range(wanted.outside, &routes, wanted.egress));
    findings
}

/// Whether this host passes packets on, and whether this process could change that; nothing is changed.
struct Forwarding {
    on: bool,
    settable: bool,
}

fn forwarding() -> io::Result<Forwarding> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    let on = std::fs::read_to_string(SWITCH)?.trim() != "0";
    Ok(Forwarding { on, settable: std::fs::OpenOptions::new().write(true).open(SWITCH).is_ok() })
}

fn judge_forwarding(found: Result<&Forwarding, &io::Error>, needed: bool) -> CheckResult {
    const CHECK: &str = "IP forwarding";
    let remedy = "for egress: sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d";
    match found {
        Ok(Forwarding { on: true, .. }) => CheckResult::ok(CHECK, "on (net.ipv4.ip_forward)"),
        Ok(Forwarding { settable: true, .. }) => {
            let found =
                "off; a server whose template has egress turns it on when it starts the first instance";
            CheckResult::ok(CHECK, found)
        }
        Ok(_) => CheckResult::missing(CHECK, needed, "off, and this process cannot turn it on", remedy),
        Err(error) => CheckResult::missing(CHECK, needed, error.to_string(), remedy),
    }
}

fn judge_range(outside: &EgressSettings, routes: &str, needed: bool) -> CheckResult {
    const CHECK: &str = "egress addresses";
    match outside.clash(routes) {
        None => CheckResult::ok(CHECK, format!("{} is free", outside.range)),
        Some((network, link)) => {
            let found = format!("{} is taken: {link} leads to {network}", outside.range);
            CheckResult::missing(
                CHECK,
                needed,
                found,
                "set EGRESS_RANGE to a private range that nothing here uses",
            )
        }
    }
}

fn judge_namespaces(tried: Option<&Ended>, needed: bool) -> CheckResult {
    const CHECK: &str = "network namespaces";
    match tried {
        Some(Ended::Well(_)) => CheckResult::ok(CHECK, "can be made"),
        Some(Ended::Badly(why)) => {
            let remedy = "run the server as root, on a kernel with CONFIG_NET_NS, and not in a container without rights";
            CheckResult::missing(CHECK, needed, format!("cannot be made: {why}"), remedy)
        }
        None => CheckResult::warning(CHECK, "not tried: unshare is not in PATH", "install util-linux"),
    }
}

fn judge_trial(trial: &Trial, tried: Option<&Ended>, needed: bool) -> CheckResult {
    match tried {
        Some(Ended::Well(_)) => CheckResult::ok(trial.check, trial.works),
        Some(Ended::Badly(why)) => CheckResult::missing(trial.check, needed, why.as_str(), trial.remedy),
        None => {
            // The server makes its links by itself, and its tables by `nft`.
            let needed = needed && trial.tool == "nft";
            let found = format!("not tried: {} is not in PATH", trial.tool);
            CheckResult::missing(trial.check, needed, found, trial.remedy)
        }
    }
}

/// Whether the name of an instance that nobody made leads anywhere.
pub(super) async fn wildcard(base_domain: &str) -> CheckResult {
    if is_local(base_domain) {
        return judge_wildcard(base_domain, None);
    }
    let id = InstanceId::random(&TemplateName::new("doctor").expect("it is a DNS label"));
    let name = format!("{id}.{base_domain}");
    let found = match timeout(PATIENCE, lookup_host((name.as_str(), 80))).await {
        Ok(found) => found.map(|addresses| addresses.map(|address| address.ip()).collect()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    judge_wildcard(base_domain, Some(found))
}

fn is_local(base_domain: &str) -> bool {
    base_domain == "localhost" || base_domain.ends_with(".localhost")
}

/// Names may lead elsewhere for visitors than for this host, so that nothing here fails.
fn judge_wildcard(base_domain: &str, found: Option<io::Result<Vec<IpAddr>>>) -> CheckResult {
    const CHECK: &str = "wildcard DNS";
    let remedy = format!("have *.{base_domain} lead to this server (a wildcard record)");
    match found {
        None => CheckResult::ok(
            CHECK,
            format!("browsers lead names under {base_domain} to this machine by themselves"),
        ),
        Some(Ok(addresses)) if !addresses.is_empty() => {
            let mut addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            addresses.dedup();
            CheckResult::ok(CHECK, format!("*.{base_domain} leads to {}", addresses.join(", ")))
        }
        Some(Ok(_)) => CheckResult::warning(CHECK, format!("*.{base_domain} leads nowhere"), remedy),
        Some(Err(why)) => {
            CheckResult::warning(CHECK, format!("*.{base_domain} leads nowhere: {why}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn namespaces_are_needed_by_containers_only() {
        let refused = Ended::Badly("Operation not permitted".to_owned());
        assert_eq!(judge_namespaces(Some(&refused), true).verdict, Verdict::Failed);
        assert_eq!(judge_namespaces(Some(&refused), false).verdict, Verdict::Warning);
        assert_eq!(judge_namespaces(Some(&Ended::Well(String::new())), true).verdict, Verdict::Ok);
        assert_eq!(judge_namespaces(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn what_only_egress_needs_fails_only_where_a_template_has_it() {
        let bad = Ended::Badly("x".to_owned());
        for trial in &EGRESS {
            assert_eq!(judge_trial(trial, Some(&Ended::Well(String::new())), true).verdict, Verdict::Ok);
            assert_eq!(judge_trial(trial, Some(&bad), false).verdict, Verdict::Warning);
            assert_eq!(judge_trial(trial, Some(&bad), true).verdict, Verdict::Failed);
            assert!(judge_trial(trial, None, false).found.contains(trial.tool));
        }
        assert_eq!(
            EGRESS.map(|trial| judge_trial(&trial, None, true).verdict),
            [Verdict::Warning, Verdict::Failed]
        );
    }

    #[test]
    fn forwarding_must_be_on_or_settable_for_egress() {
        let of = |on, settable, needed| judge_forwarding(Ok(&Forwarding { on, settable }), needed).verdict;
        assert_eq!((of(true, false, true), of(false, true, true)), (Verdict::Ok, Verdict::Ok));
        assert_eq!((of(false, false, true), of(false, false, false)), (Verdict::Failed, Verdict::Warning));
    }

    #[test]
    fn the_addresses_for_egress_must_lead_nowhere_else() {
        let route =
            |base: u32| format!("head\nvpn\t{:08X}\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\n", base.to_be());
        let outside = EgressSettings::default();
        assert_eq!(judge_range(&outside, &route(0x0b00_0000), true).verdict, Verdict::Ok);
        let taken = judge_range(&outside, &route(0x0a00_0000), true);
        assert_eq!(taken.verdict, Verdict::Failed);
        assert_eq!(taken.found, "10.213.0.0/16 is taken: vpn leads to 10.0.0.0/8");
    }

    #[test]
    fn names_under_localhost_always_work_and_others_must_lead_somewhere() {
        assert!(is_local("localhost") && is_local("a.localhost") && !is_local("notlocalhost"));
        assert_eq!(judge_wildcard("localhost", None).verdict, Verdict::Ok);
        let twice = vec!["10.0.0.1".parse().unwrap(); 2];
        assert_eq!(judge_wildcard("demo.example", Some(Ok(twice))).found, "*.demo.example leads to 10.0.0.1");
        for nothing in [Ok(vec![]), Err(io::ErrorKind::NotFound.into())] {
            let judged = judge_wildcard("demo.example", Some(nothing));
            assert_eq!(judged.verdict, Verdict::Warning);
            assert!(judged.remedy.unwrap().contains("*.demo.example"));
        }
    }
}
