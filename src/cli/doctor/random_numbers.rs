//! Checks whether instances of a checkpoint draw different random numbers.

use std::collections::BTreeSet;

use super::check_result::CheckResult;
use crate::runtime::Checkpoint;
use crate::template::Template;

/// Returns the result for a template; `None` if it is not baked in its present form.
pub(super) fn judge(template: &Template, baked: &[Checkpoint]) -> Option<CheckResult> {
    const CHECK: &str = "random numbers";
    let name = &template.name;
    let its = |baked: &&Checkpoint| baked.template == name.as_str() && baked.revision == template.revision;
    let its: Vec<_> = baked.iter().filter(its).collect();
    its.first()?;
    let mut reasons: Vec<String> = its
        .iter()
        .flat_map(|baked| &baked.repeating_numbers)
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let repeated: BTreeSet<&str> =
        its.iter().flat_map(|baked| &baked.repeated_values).map(String::as_str).collect();
    if !repeated.is_empty() {
        let values = repeated.into_iter().collect::<Vec<_>>().join(", ");
        reasons.push(format!("two restored instances drew the same values: {values}"));
    }
    if reasons.is_empty() {
        return Some(CheckResult::ok(CHECK, format!("{name}: no known generator repeats in its instances")));
    }
    let reasons = reasons.join("; ");
    Some(CheckResult::warning(
        CHECK,
        format!("{name}: instances may draw equal random numbers: {reasons}"),
        "see docs/random-numbers.md, and bake the template again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use crate::config;

    #[test]
    fn generators_that_repeat_are_a_warning_for_the_present_revision() {
        let program = std::path::Path::new("/bin/try-it-now");
        let environment = [("HOME".to_owned(), "/root".to_owned())].into();
        let config = config::Config::load(&environment, None, program).unwrap();
        let template = config.templates.iter().next().unwrap().as_ref().clone();
        let of = |revision, repeating: &[&str]| Checkpoint {
            template: template.name.as_str().to_owned(),
            revision,
            shared_memory: Ok(0),
            repeating_numbers: repeating.iter().map(|text| (*text).to_owned()).collect(),
            repeated_values: Vec::new(),
        };
        let old = of(template.revision + 1, &["old"]);
        assert!(judge(&template, std::slice::from_ref(&old)).is_none());
        let judged = judge(&template, &[old.clone(), of(template.revision, &[])]).unwrap();
        assert_eq!(judged.verdict, Verdict::Ok);
        let both = [old, of(template.revision, &["one", "two"]), of(template.revision, &["one"])];
        let judged = judge(&template, &both).unwrap();
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.found.ends_with("equal random numbers: one; two"), "{}", judged.found);
        let compared = Checkpoint {
            repeated_values: vec!["cookie a".to_owned(), "cookie b".to_owned()],
            ..of(template.revision, &[])
        };
        let judged = judge(&template, &[compared]).unwrap();
        assert_eq!(judged.verdict, Verdict::Warning);
        let expected = "two restored instances drew the same values: cookie a, cookie b";
        assert!(judged.found.ends_with(expected), "{}", judged.found);
    }
}
