//! The error pages on the API's host, for a visitor who pressed a button of the front page.

use std::time::Duration;

use super::Page;
use super::html::Html;
use super::humanize;
use super::notice::{Icon, Notice};
use crate::instance::{RateLimited, RateLimits, ReachedLimit};

const FRONT_PAGE_BUTTON: &str = r#"<a class="button" href="/">Back to all apps</a>"#;
const TRY_AGAIN: &str = include_str!("try_again.html");
const TRY_AGAIN_SCRIPT: &str = concat!(include_str!("submit_once.js"), include_str!("try_again.js"));
const PROOF_FORM: &str = include_str!("proof_of_work.html");
const PROOF_SCRIPT: &str = include_str!("proof_of_work.js");
const RATE_LIMITED_SCRIPT: &str = include_str!("rate_limited.js");

/// Returns the page of a visitor who has reached a rate limit.
pub(crate) fn rate_limited(limited: &RateLimited, request_id: &str) -> Page {
    Notice {
        explanation: Html::fill(
            "{{limits}}You can start the next one in \
             <strong id=\"retry-time\" data-wait-ms=\"{{millis}}\">{{wait}}</strong>.",
            &[
                ("limits", Html::escape(&limits_sentence(limited))),
                ("millis", Html::number(limited.retry_after.as_millis())),
                ("wait", Html::escape(&humanize::wait(limited.retry_after))),
            ],
        ),
        script: RATE_LIMITED_SCRIPT,
        ..api_host_notice(Icon::Clock, "That was your last copy for now", request_id)
    }
    .page()
}

/// Returns the page of a visitor who needs a proof of work for the next instance: its script makes the proof and posts
/// it. `challenge` is in ALTCHA's JSON.
pub(crate) fn proof_required(template: &str, challenge: &serde_json::Value, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "You have started some copies already. So that everyone gets one, your browser has to do a short \
             calculation before the next. It takes a few seconds.",
        ),
        actions: Html::fill(
            PROOF_FORM,
            &[("template", Html::escape(template)), ("challenge", Html::escape(&challenge.to_string()))],
        ),
        script: PROOF_SCRIPT,
        has_forms: true,
        ..api_host_notice(Icon::Clock, "One moment, please", request_id)
    }
    .page()
}

/// Returns the page of a visitor whose proof of work is wrong, too old or used.
pub(crate) fn invalid_proof(template: &str, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "The calculation was made too long ago, or used already. Please try again.",
        ),
        actions: Html::fill(
            TRY_AGAIN,
            &[("template", Html::escape(template)), ("millis", Html::number(0_u32))],
        ),
        script: TRY_AGAIN_SCRIPT,
        has_forms: true,
        ..api_host_notice(Icon::Clock, "That took too long", request_id)
    }
    .page()
}

/// Returns a sentence with the limits of one visitor; empty without limits.
fn limits_sentence(limited: &RateLimited) -> String {
    let copies = |n: u32| humanize::count(n.into(), "copy", "copies");
    let RateLimits { hourly, daily, concurrent } = limited.limits;
    if limited.reached == ReachedLimit::Concurrent {
        return format!(
            "Everyone can have {} of this app at a time. End one of yours, or wait. ",
            copies(concurrent)
        );
    }
    match (hourly, daily) {
        (0, 0) => String::new(),
        (hourly, 0) => format!("Everyone can start {} of this app an hour. ", copies(hourly)),
        (0, daily) => format!("Everyone can start {} of this app a day. ", copies(daily)),
        (hourly, daily) => {
            format!("Everyone can start {} of this app an hour and {daily} a day. ", copies(hourly))
        }
    }
}

/// Returns the page for an exhausted pool: no instance of `template` is ready, and a retry makes sense after
/// `retry_after`.
pub(crate) fn pool_exhausted(template: &str, retry_after: Duration, request_id: &str) -> Page {
    let retry_after = retry_after.max(Duration::from_secs(1));
    Notice {
        explanation: Html::fill(
            "A fresh one is made as soon as there is room. \
             Please try again in <span id=\"wait\">{{wait}}</span>.",
            &[("wait", Html::escape(&humanize::wait(retry_after)))],
        ),
        actions: Html::fill(
            TRY_AGAIN,
            &[("template", Html::escape(template)), ("millis", Html::number(retry_after.as_millis()))],
        ),
        script: TRY_AGAIN_SCRIPT,
        has_forms: true,
        ..api_host_notice(Icon::Clock, "All copies are taken right now", request_id)
    }
    .page()
}

/// Returns the page for a template that does not exist.
pub(crate) fn template_not_found(request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "It may have been renamed or taken down. Have a look at what else you can try.",
        ),
        ..api_host_notice(Icon::Magnifier, "There is no such app here", request_id)
    }
    .page()
}

/// Returns the page for a button on another site that this server does not know.
pub(crate) fn cross_site(request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "Its owner has to allow that first. Meanwhile you can start a copy from here yourself.",
        ),
        ..api_host_notice(Icon::Warning, "That button was on another site", request_id)
    }
    .page()
}

/// Returns the page for an internal error.
pub(crate) fn internal_error(request_id: &str) -> Page {
    Notice {
        explanation: Html::markup("It was nothing that you did. Please go back and try again in a moment."),
        ..api_host_notice(Icon::Warning, "Something went wrong on our side", request_id)
    }
    .page()
}

/// Returns a notice on the API's host, with a link to the front page.
fn api_host_notice(icon: Icon, heading: &'static str, request_id: &str) -> Notice {
    Notice {
        icon,
        heading,
        explanation: Html::default(),
        actions: Html::markup(FRONT_PAGE_BUTTON),
        home: Html::markup("/"),
        request_id: Html::escape(request_id),
        script: "",
        has_forms: false,
        may_be_framed: false,
    }
}
