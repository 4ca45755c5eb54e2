//! Whether copies share their memory: what that needs of this host, and what came of it for each template.

use std::io;

use super::check_result::CheckResult;
use crate::runtime::Checkpoint;
use crate::template::Template;

pub(super) fn judge_watching(tried: io::Result<()>) -> CheckResult {
    const CHECK: &str = "tracing";
    match tried {
        Ok(()) => CheckResult::ok(CHECK, "what an app does with its memory can be watched while it is baked"),
        Err(error) => CheckResult::warning(
            CHECK,
            format!("what an app does with its memory cannot be watched, so no copies share any: {error}"),
            "run the server as root and not in a container, on a kernel with CONFIG_FTRACE_SYSCALLS that is not locked down",
        ),
    }
}

/// One finding for each way in which a template is baked on this host; several servers may have several.
pub(super) fn judge(template: &Template, baked: &[Checkpoint]) -> Vec<CheckResult> {
    const CHECK: &str = "shared memory";
    let name = &template.name;
    let its = |baked: &&Checkpoint| baked.template == name.as_str() && baked.revision == template.revision;
    let mut found: Vec<_> = baked.iter().filter(its).map(|baked| &baked.shares).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return vec![CheckResult::ok(CHECK, format!("{name}: not baked as it is now"))];
    }
    let judge = |shares: &Result<u64, String>| match shares {
        Ok(bytes) => CheckResult::ok(CHECK, format!("{name}: copies share {} MiB of memory", bytes >> 20)),
        Err(_) if template.app.share_memory.is_off() => {
            CheckResult::ok(CHECK, format!("{name}: each copy has memory of its own, as its template says"))
        }
        Err(why) => CheckResult::warning(
            CHECK,
            format!("{name}: each copy has memory of its own: {why}"),
            "if that is no mistake, say share_memory = \"off\" in its template",
        ),
    };
    found.into_iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use crate::config;

    fn template() -> Template {
        let program = std::path::Path::new("/bin/try-it-now");
        let environment = [("HOME".to_owned(), "/root".to_owned())].into();
        let config = config::Config::load(&environment, None, program).unwrap();
        config.templates.iter().next().unwrap().as_ref().clone()
    }

    #[test]
    fn each_template_is_told_of_by_what_was_baked_of_its_revision() {
        let template = template();
        let of =
            |revision, shares| Checkpoint { template: template.name.as_str().to_owned(), revision, shares };
        let other = Checkpoint { template: "other".to_owned(), ..of(template.revision, Ok(1 << 30)) };
        let old = of(template.revision + 1, Err("old".to_owned()));
        let name = &template.name;
        let judged = |baked: &[Checkpoint]| judge(&template, baked);
        let none = judged(&[other.clone(), old.clone()]);
        assert_eq!((none.len(), none[0].verdict), (1, Verdict::Ok));
        assert_eq!(none[0].found, format!("{name}: not baked as it is now"));
        let shared = of(template.revision, Ok(5 << 20));
        let both =
            judged(&[other, old, shared.clone(), of(template.revision, Err("why".to_owned())), shared]);
        let told: Vec<_> = both.iter().map(|finding| (finding.verdict, finding.found.as_str())).collect();
        let (shared, own) = (
            format!("{name}: copies share 5 MiB of memory"),
            format!("{name}: each copy has memory of its own: why"),
        );
        assert_eq!(told, [(Verdict::Ok, shared.as_str()), (Verdict::Warning, own.as_str())]);
    }

    #[test]
    fn without_tracing_nothing_is_shared() {
        assert_eq!(judge_watching(Ok(())).verdict, Verdict::Ok);
        let judged = judge_watching(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.remedy.is_some());
    }
}
