//! Checks memory sharing: what it needs of this host, and the result for each template.

use std::io;

use super::check_result::CheckResult;
use crate::runtime::Checkpoint;
use crate::template::Template;

pub(super) fn judge_tracing(tried: io::Result<()>) -> CheckResult {
    const CHECK: &str = "tracing";
    match tried {
        Ok(()) => CheckResult::ok(CHECK, "the memory calls of an app can be traced during a bake"),
        Err(error) => CheckResult::warning(
            CHECK,
            format!("the memory calls of an app cannot be traced, so no memory is shared: {error}"),
            "run the server as root and not in a container, on a kernel with CONFIG_FTRACE_SYSCALLS that is not locked down",
        ),
    }
}

/// Returns a result for each different outcome of baking a template on this host. Several servers may have different
/// ones.
pub(super) fn judge(template: &Template, baked: &[Checkpoint]) -> Vec<CheckResult> {
    const CHECK: &str = "shared memory";
    let name = &template.name;
    if let Some(handler) = &template.app.runtime {
        let found = format!("{name}: started, not restored, because its runtime is {}", handler.name());
        return vec![CheckResult::ok(CHECK, found)];
    }
    let its = |baked: &&Checkpoint| baked.template == name.as_str() && baked.revision == template.revision;
    let mut found: Vec<_> = baked.iter().filter(its).map(|baked| &baked.shared_memory).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return vec![CheckResult::ok(CHECK, format!("{name}: not baked in its present form"))];
    }
    let judge = |shares: &Result<u64, String>| match shares {
        Ok(bytes) => CheckResult::ok(CHECK, format!("{name}: instances share {} MiB of memory", bytes >> 20)),
        Err(_) if template.app.share_memory.is_off() => {
            CheckResult::ok(CHECK, format!("{name}: no memory is shared, as the template says"))
        }
        Err(why) => CheckResult::warning(
            CHECK,
            format!("{name}: no memory is shared: {why}"),
            "if that is intended, set share_memory = \"off\" in the template",
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
    fn the_result_of_a_template_is_that_of_its_present_revision() {
        let template = template();
        let of = |revision, shares| Checkpoint {
            template: template.name.as_str().to_owned(),
            revision,
            shared_memory: shares,
            repeated_values: Vec::new(),
            repeating_numbers: Vec::new(),
        };
        let other = Checkpoint { template: "other".to_owned(), ..of(template.revision, Ok(1 << 30)) };
        let old = of(template.revision + 1, Err("old".to_owned()));
        let name = &template.name;
        let judged = |baked: &[Checkpoint]| judge(&template, baked);
        let none = judged(&[other.clone(), old.clone()]);
        assert_eq!((none.len(), none[0].verdict), (1, Verdict::Ok));
        assert_eq!(none[0].found, format!("{name}: not baked in its present form"));
        let shared = of(template.revision, Ok(5 << 20));
        let both =
            judged(&[other, old, shared.clone(), of(template.revision, Err("why".to_owned())), shared]);
        let reported: Vec<_> = both.iter().map(|result| (result.verdict, result.found.as_str())).collect();
        let (shared, own) =
            (format!("{name}: instances share 5 MiB of memory"), format!("{name}: no memory is shared: why"));
        assert_eq!(reported, [(Verdict::Ok, shared.as_str()), (Verdict::Warning, own.as_str())]);
    }

    #[test]
    fn without_tracing_there_is_a_warning() {
        assert_eq!(judge_tracing(Ok(())).verdict, Verdict::Ok);
        let judged = judge_tracing(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.remedy.is_some());
    }
}
