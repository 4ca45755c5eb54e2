//! Checks the MariaDB on which instances have their databases: version, rights, encryption, connections.

use std::time::Duration;

use tokio::time::timeout;

use super::check_result::CheckResult;
use crate::config::Config;
use crate::runtime::DatabaseError;
use crate::server::backends::{DatabaseSurvey, MAX_IDLE_CONNECTIONS, survey_databases};

/// Longest time to ask.
const DEADLINE: Duration = Duration::from_secs(8);

/// The oldest version with which the program is tested.
const OLDEST: (u32, u32) = (10, 11);

const CHECK: &str = "databases";

/// Returns nothing if no MariaDB is configured.
pub(super) async fn check(config: &Config) -> Vec<CheckResult> {
    let Some(settings) = config.database.clone() else { return Vec::new() };
    let is_needed = config.templates.iter().any(|template| template.database.is_some());
    match timeout(DEADLINE, survey_databases(Some(settings.clone()))).await {
        Ok(None) => Vec::new(),
        Ok(Some(Ok(survey))) => {
            let instances = config.templates.iter().filter(|template| template.database.is_some());
            judge(&survey, instances.map(|template| template.pool.max).sum(), &settings.prefix)
        }
        Ok(Some(Err(error))) => vec![unreachable(is_needed, &error)],
        Err(_) => {
            vec![CheckResult::missing(CHECK, is_needed, "MariaDB does not answer in time", "see its log")]
        }
    }
}

fn unreachable(is_needed: bool, error: &DatabaseError) -> CheckResult {
    CheckResult::missing(
        CHECK,
        is_needed,
        error.to_string(),
        "start MariaDB, or correct PS_DB_HOST and PS_DB_USER",
    )
}

fn judge(survey: &DatabaseSurvey, instances: usize, prefix: &str) -> Vec<CheckResult> {
    let encryption = if survey.is_encrypted { "encrypted" } else { "not encrypted" };
    let title = format!("MariaDB {}, {encryption}, {} connections", survey.version, survey.max_connections);
    let mut results = vec![match version(&survey.version) {
        Some(found) if found >= OLDEST && survey.version.contains("MariaDB") => CheckResult::ok(CHECK, title),
        _ => CheckResult::warning(
            CHECK,
            title,
            "use MariaDB 10.11 or newer, with which this program is tested",
        ),
    }];
    if !may_grant(&survey.grants, prefix) || !survey.lists_users {
        results.push(CheckResult::missing(
            CHECK,
            true,
            "the user of PS_DB_USER lacks rights",
            format!(
                "as an administrator: GRANT CREATE USER, CONNECTION ADMIN ON *.* TO user; GRANT ALL PRIVILEGES ON \
                 `{}\\_%`.* TO user WITH GRANT OPTION; GRANT SELECT ON mysql.user TO user",
                prefix.replace('_', "\\_")
            ),
        ));
    }
    if survey.max_connections < (instances + MAX_IDLE_CONNECTIONS) as u64 {
        results.push(CheckResult::warning(
            CHECK,
            format!(
                "{instances} instances may share {} connections, of which the server keeps up to {}",
                survey.max_connections, MAX_IDLE_CONNECTIONS
            ),
            "raise max_connections of MariaDB, or lower the size of the pools",
        ));
    }
    if survey.has_anonymous_user {
        results.push(CheckResult::warning(
            CHECK,
            "MariaDB lets in users without a name, whose accounts come before those of instances",
            "DROP USER ''@'localhost' and the like; mariadb-secure-installation does that",
        ));
    }
    if survey.locks_out_hosts {
        results.push(CheckResult::warning(
            CHECK,
            "an instance that connects and never logs in can make MariaDB lock out this host (max_connect_errors)",
            "set skip_name_resolve in the configuration of MariaDB",
        ));
    }
    results
}

/// Returns whether the grants suffice to make users and to give them rights on databases with the prefix.
fn may_grant(grants: &[String], prefix: &str) -> bool {
    let on_all = grants.iter().filter(|grant| grant.contains(" ON *.* "));
    let has_all = |grant: &str| grant.contains("ALL PRIVILEGES") && grant.contains("WITH GRANT OPTION");
    let may_make_users = on_all.clone().any(|grant| grant.contains("CREATE USER") || has_all(grant));
    let own = format!(" ON `{}\\_%`.* ", prefix.replace('_', "\\_"));
    let may_make_databases = on_all.clone().any(|grant| has_all(grant))
        || grants.iter().any(|grant| grant.contains(&own) && has_all(grant));
    may_make_users && may_make_databases
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn survey(version: &str, grants: &[&str]) -> DatabaseSurvey {
        DatabaseSurvey {
            version: version.to_owned(),
            max_connections: 100,
            is_encrypted: true,
            grants: grants.iter().map(|grant| (*grant).to_owned()).collect(),
            lists_users: true,
            has_anonymous_user: false,
            locks_out_hosts: false,
        }
    }

    const ROOT: &str = "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION";
    const USERS: &str = "GRANT CREATE USER, CONNECTION ADMIN ON *.* TO `tin`@`%`";
    const OWN: &str = r"GRANT ALL PRIVILEGES ON `shop\_2\_%`.* TO `tin`@`%` WITH GRANT OPTION";

    fn verdicts(survey: &DatabaseSurvey, instances: usize) -> Vec<Verdict> {
        judge(survey, instances, "shop_2").iter().map(|result| result.verdict).collect()
    }

    #[test]
    fn a_mariadb_that_suffices_is_one_line() {
        for grants in [&[ROOT][..], &[USERS, OWN]] {
            assert_eq!(verdicts(&survey("11.8.9-MariaDB-4", grants), 84), [Verdict::Ok], "{grants:?}");
        }
    }

    #[test]
    fn missing_rights_are_named() {
        for grants in [&[USERS][..], &[OWN], &[USERS, &OWN.replace(" WITH GRANT OPTION", "")]] {
            let results = judge(&survey("10.11.18-MariaDB-0+deb12u1", grants), 1, "shop_2");
            assert_eq!(results[1].verdict, Verdict::Failed, "{grants:?}");
            assert!(results[1].remedy.as_ref().unwrap().contains(r"`shop\_2\_%`.*"));
        }
    }

    #[test]
    fn an_old_version_few_connections_users_without_a_name_and_a_host_that_may_be_locked_out_are_warnings() {
        let warnings = [Verdict::Warning];
        assert_eq!(verdicts(&survey("10.6.1-MariaDB", &[ROOT]), 1), warnings);
        assert_eq!(verdicts(&survey("8.0.36", &[ROOT]), 1), warnings);
        assert_eq!(verdicts(&survey("11.8.9-MariaDB", &[ROOT]), 85)[1..], warnings);
        let anonymous = DatabaseSurvey { has_anonymous_user: true, ..survey("11.8.9-MariaDB", &[ROOT]) };
        assert_eq!(verdicts(&anonymous, 1)[1..], warnings);
        let counted = DatabaseSurvey { locks_out_hosts: true, ..survey("11.8.9-MariaDB", &[ROOT]) };
        assert_eq!(verdicts(&counted, 1)[1..], warnings);
    }
}
