//! Checks that containerd finds the runtime handlers that templates name.

use std::fs;
use std::sync::Arc;

use super::check_result::CheckResult;
use crate::runtime::containerd_process::{ContainerdProcess, find_program};
use crate::template::{RuntimeHandler, Template};

/// Checks the handler of each template that names one.
pub(super) fn check<'t>(
    containerd: &ContainerdProcess,
    templates: impl Iterator<Item = &'t Arc<Template>>,
) -> Vec<CheckResult> {
    let handlers = templates.filter_map(|template| Some((&template.name, template.app.runtime.as_ref()?)));
    handlers.map(|(name, handler)| judge(name.as_str(), handler, is_found(containerd, handler))).collect()
}

/// containerd looks in its search path, and in the folder of its own program.
fn is_found(containerd: &ContainerdProcess, handler: &RuntimeHandler) -> bool {
    let own_folder = containerd.pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    let own_folder = own_folder.and_then(|program| Some(program.parent()?.to_str()?.to_owned()));
    let shim = handler.shim();
    containerd.find_program(&shim).is_some()
        || own_folder.is_some_and(|folder| find_program(&shim, &folder).is_some())
}

fn judge(template: &str, handler: &RuntimeHandler, is_found: bool) -> CheckResult {
    const CHECK: &str = "runtime handler";
    let shim = handler.shim();
    match is_found {
        true => CheckResult::ok(
            CHECK,
            format!("{template}: {shim} found; its instances are started, not restored"),
        ),
        false => CheckResult::missing(
            CHECK,
            true,
            format!("{template}: {shim} not found, so no instance of it can start"),
            "install it where containerd finds it (its PATH), or change runtime in the template",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_missing_handler_fails_and_names_the_program_to_install() {
        let handler = RuntimeHandler::parse("io.containerd.nowhere.v1").unwrap();
        let containerd = ContainerdProcess { pid: None, search_path: "/bin".to_owned() };
        assert!(!is_found(&containerd, &handler));
        let judged = judge("shop", &handler, false);
        assert_eq!(judged.verdict, Verdict::Failed);
        assert!(judged.found.contains("containerd-shim-nowhere-v1"), "{}", judged.found);
        assert_eq!(judge("shop", &handler, true).verdict, Verdict::Ok);
    }
}
