//! Checks whether instances of a template repeat values that should be random.

use super::check_result::CheckResult;
use crate::runtime::Checkpoint;
use crate::template::Template;

/// Returns a result for each different outcome of the comparison at a bake; none if no bake compared.
pub(super) fn judge(template: &Template, baked: &[Checkpoint]) -> Vec<CheckResult> {
    const CHECK: &str = "random numbers";
    let name = &template.name;
    let its = |baked: &&Checkpoint| baked.template == name.as_str() && baked.revision == template.revision;
    let mut found: Vec<_> =
        baked.iter().filter(its).filter_map(|baked| baked.repeated_values.as_deref()).collect();
    found.sort_unstable();
    found.dedup();
    let judge = |values: &[String]| match values {
        [] => CheckResult::ok(CHECK, format!("{name}: two restored instances drew different values")),
        values => CheckResult::warning(
            CHECK,
            format!("{name}: two restored instances drew the same values: {}", values.join(", ")),
            "visitors can predict the values of others: see docs/random-numbers.md",
        ),
    };
    found.into_iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use crate::cli::doctor::memory_sharing::tests::template;

    #[test]
    fn equal_values_of_the_present_revision_are_a_warning() {
        let template = template();
        let of = |revision, values: Option<&[&str]>| Checkpoint {
            template: template.name.as_str().to_owned(),
            revision,
            shared_memory: Ok(0),
            repeated_values: values.map(|values| values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let judged = |baked: &[Checkpoint]| {
            let results = judge(&template, baked);
            results.into_iter().map(|result| (result.verdict, result.found)).collect::<Vec<_>>()
        };
        assert_eq!(
            judged(&[of(template.revision, None), of(template.revision + 1, Some(&["cookie a"]))]),
            []
        );
        let name = &template.name;
        let fine = (Verdict::Ok, format!("{name}: two restored instances drew different values"));
        assert_eq!(judged(&[of(template.revision, Some(&[]))]), [fine]);
        let found = judged(&[of(template.revision, Some(&["cookie a", "cookie b"]))]);
        let text = format!("{name}: two restored instances drew the same values: cookie a, cookie b");
        assert_eq!(found, [(Verdict::Warning, text)]);
    }
}
