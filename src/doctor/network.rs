//! Networks of instances, and the names by which visitors find them.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::command::{Ended, run};
use super::finding::Finding;
use crate::instance::{InstanceId, TemplateName};
use crate::runtime::daemon::{find, own_path};

const PATIENCE: Duration = Duration::from_secs(5);

/// A tool of others, tried out in a network of its own that goes when the tool ends.
struct Trial {
    check: &'static str,
    tool: &'static str,
    arguments: &'static [&'static str],
    works: &'static str,
    remedy: &'static str,
}

/// What a template that lets its instances into the internet would need, and no other.
const EGRESS: [Trial; 2] = [
    Trial {
        check: "veth",
        tool: "ip",
        arguments: &["link", "add", "tin0", "type", "veth", "peer", "name", "tin1"],
        works: "pairs can be made",
        remedy: "for egress: install iproute2 and load the kernel module veth",
    },
    Trial {
        check: "nftables",
        tool: "nft",
        arguments: &["add", "table", "inet", "try-it-now-doctor"],
        works: "tables can be made",
        remedy: "for egress: install nftables and load the kernel module nf_tables",
    },
];

pub(super) async fn examine(needed: bool) -> Vec<Finding> {
    let path = own_path();
    let unshare = find("unshare", &path);
    let tried = match &unshare {
        Some(unshare) => Some(run(unshare, &["-n", "true"]).await),
        None => None,
    };
    let mut findings = vec![judge_namespaces(tried.as_ref(), needed)];
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
        findings.push(judge_trial(trial, tried.as_ref()));
    }
    findings
}

fn judge_namespaces(tried: Option<&Ended>, needed: bool) -> Finding {
    const CHECK: &str = "network namespaces";
    match tried {
        Some(Ended::Well(_)) => Finding::ok(CHECK, "can be made"),
        Some(Ended::Badly(why)) => {
            let remedy = "run the server as root, on a kernel with CONFIG_NET_NS, and not in a container without rights";
            Finding::missing(CHECK, needed, format!("cannot be made: {why}"), remedy)
        }
        None => Finding::warning(CHECK, "not tried: unshare is not in PATH", "install util-linux"),
    }
}

fn judge_trial(trial: &Trial, tried: Option<&Ended>) -> Finding {
    match tried {
        Some(Ended::Well(_)) => Finding::ok(trial.check, trial.works),
        Some(Ended::Badly(why)) => Finding::warning(trial.check, why.as_str(), trial.remedy),
        None => {
            Finding::warning(trial.check, format!("not tried: {} is not in PATH", trial.tool), trial.remedy)
        }
    }
}

/// Whether the name of an instance that nobody made leads anywhere.
pub(super) async fn wildcard(base_domain: &str) -> Finding {
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
fn judge_wildcard(base_domain: &str, found: Option<io::Result<Vec<IpAddr>>>) -> Finding {
    const CHECK: &str = "wildcard DNS";
    let remedy = format!("have *.{base_domain} lead to this server (a wildcard record)");
    match found {
        None => Finding::ok(
            CHECK,
            format!("browsers lead names under {base_domain} to this machine by themselves"),
        ),
        Some(Ok(addresses)) if !addresses.is_empty() => {
            let mut addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            addresses.dedup();
            Finding::ok(CHECK, format!("*.{base_domain} leads to {}", addresses.join(", ")))
        }
        Some(Ok(_)) => Finding::warning(CHECK, format!("*.{base_domain} leads nowhere"), remedy),
        Some(Err(why)) => Finding::warning(CHECK, format!("*.{base_domain} leads nowhere: {why}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn namespaces_are_needed_by_containers_only() {
        let refused = Ended::Badly("Operation not permitted".to_owned());
        assert_eq!(judge_namespaces(Some(&refused), true).verdict, Verdict::Failed);
        assert_eq!(judge_namespaces(Some(&refused), false).verdict, Verdict::Warning);
        assert_eq!(judge_namespaces(Some(&Ended::Well(String::new())), true).verdict, Verdict::Ok);
        assert_eq!(judge_namespaces(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn what_only_egress_needs_never_fails() {
        for trial in &EGRESS {
            assert_eq!(judge_trial(trial, Some(&Ended::Well(String::new()))).verdict, Verdict::Ok);
            assert_eq!(judge_trial(trial, Some(&Ended::Badly("x".to_owned()))).verdict, Verdict::Warning);
            assert!(judge_trial(trial, None).found.contains(trial.tool));
        }
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
