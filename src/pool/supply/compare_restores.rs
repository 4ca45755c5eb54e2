//! Compares the first two instances that are restored from a new checkpoint: what both draw at random, other instances
//! draw too, and strangers can predict. See [`super::repeated_values`].
//!
//! The two instances are never on record and end when their answers are read. So a crash at any instant leaves
//! unrecorded instances, which the next server process stops.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::provision::{INSTANCE_HOOKS, ProvisionDraft, ProvisionStep, START_STEPS, run_steps};
use super::provision_error::ProvisionError;
use super::readiness;
use super::repeated_values::{AnswerValues, find_repeated};
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::StartMethod;
use crate::template::Template;

/// Most pages that are compared.
const MAX_PAGES: usize = 4;
/// The page of a template without warm-up requests.
const DEFAULT_PAGE: &str = "/";

/// The steps of an instance that is compared: those of any instance, without its record.
const STEPS: [ProvisionStep; 7] = {
    let [database, start, answer, warm_up, bake_hooks] = START_STEPS;
    [
        database,
        start,
        answer,
        warm_up,
        bake_hooks,
        INSTANCE_HOOKS,
        ProvisionStep { name: "compare", act: |d| read_pages(d), undo: |_| Box::pin(async {}) },
    ]
};

/// Restores two instances one after the other, and records and logs what both drew at random. Returns these values,
/// described for the operator. A failure to compare is logged and does not concern the checkpoint.
pub(super) async fn compare_restores(
    supply: &Arc<Supply>,
    template_pool: &Arc<TemplatePool>,
    template: &Arc<Template>,
) -> Vec<String> {
    if !supply.runtime.runs_apps() {
        return Vec::new();
    }
    let name = template.name.as_str();
    let mut instances = Vec::new();
    for _ in 0..2 {
        match answers_of_restore(supply, template_pool, template.clone()).await {
            Ok(answers) => instances.push(answers),
            Err((_, ProvisionError::Stopping | ProvisionError::Outdated)) => return Vec::new(),
            Err((step, error)) => {
                tracing::warn!(template = name, step, %error, "failed to compare restored instances");
                return Vec::new();
            }
        }
    }
    let repeated: Vec<String> = match instances.as_slice() {
        [first, second] => first.iter().zip(second).flat_map(|(a, b)| find_repeated(a, b)).collect(),
        _ => Vec::new(),
    };
    if let Err(error) =
        supply.runtime.record_repeated_values(template.revision, &template.app, &repeated).await
    {
        tracing::warn!(template = name, %error, "failed to record comparison of restored instances");
    }
    if !repeated.is_empty() {
        tracing::error!(
            template = name,
            values = repeated.join(", "),
            "restored instances repeat values that should be random: visitors can predict those of others; \
             see docs/random-numbers.md"
        );
    }
    repeated
}

/// Restores an instance, reads its answers to each page twice, and ends it.
async fn answers_of_restore(
    supply: &Arc<Supply>,
    template_pool: &Arc<TemplatePool>,
    template: Arc<Template>,
) -> Result<Vec<[AnswerValues; 2]>, (&'static str, ProvisionError)> {
    let id = InstanceId::random(&template.name);
    let lock = supply.in_flight.lock(&id).expect("no task knows an id that was drawn just now");
    let mut draft = ProvisionDraft::new(supply, template_pool, template, id);
    let outcome = run_steps(&STEPS, &mut draft, &lock).await;
    if outcome.is_ok() {
        draft.end().await;
    }
    // Its death needs no handling: it was stopped, or its steps were undone.
    lock.unlock();
    outcome.map(|()| std::mem::take(&mut draft.answers))
}

fn read_pages<'a>(draft: &'a mut ProvisionDraft<'_>) -> BoxFuture<'a, Result<(), ProvisionError>> {
    Box::pin(async {
        if draft.started().method == StartMethod::Cold {
            return Err(ProvisionError::NotRestored);
        }
        let host = draft.supply.shared.public_url.instance_authority(&draft.id);
        let default_page = [DEFAULT_PAGE.to_owned()];
        let pages = match draft.template.warm_up.as_slice() {
            [] => &default_page,
            pages => pages,
        };
        let mut answers = Vec::new();
        for page in pages.iter().take(MAX_PAGES) {
            let mut both = [AnswerValues::default(), AnswerValues::default()];
            for values in &mut both {
                let answer = readiness::get(draft.target(&host), page);
                // A page without an answer has no values to compare.
                if let Ok(Ok(response)) = tokio::time::timeout(draft.template.ready.timeout, answer).await {
                    *values = AnswerValues::of(&response);
                }
            }
            answers.push(both);
        }
        draft.answers = answers;
        Ok(())
    })
}
