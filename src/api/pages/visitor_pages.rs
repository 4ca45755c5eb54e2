//! What went wrong on our own host, for a visitor who pressed a button.

use std::time::Duration;

use super::Page;
use super::html::Html;
use super::humanize;
use super::notice::{Notice, Sign};
use crate::instance::{Limits, RateLimited};

const ALL_APPS: &str = r#"<a class="button" href="/">Back to all apps</a>"#;
const AGAIN: &str = include_str!("again.html");
const AGAIN_SCRIPT: &str = concat!(include_str!("once.js"), include_str!("again.js"));
const LATER_SCRIPT: &str = include_str!("later.js");

/// The visitor has had as many instances as the limits allow.
pub fn rate_limited(limited: &RateLimited, request_id: &str) -> Page {
    Notice {
        sentence: Html::fill(
            "{{limits}}You can start the next one in <strong id=\"later\" data-wait-ms=\"{{millis}}\">{{wait}}</strong>.",
            &[
                ("limits", Html::text(&allowance(limited.limits))),
                ("millis", Html::number(limited.retry_after.as_millis())),
                ("wait", Html::text(&humanize::wait(limited.retry_after))),
            ],
        ),
        script: LATER_SCRIPT,
        ..here(Sign::Clock, "That was your last copy for now", request_id)
    }
    .page()
}

/// What one visitor may have, in words; nothing without limits.
fn allowance(limits: Limits) -> String {
    let copies = |n: u32| humanize::count(n.into(), "copy", "copies");
    match (limits.hourly, limits.daily) {
        (0, 0) => String::new(),
        (hourly, 0) => format!("Everyone can start {} of this app an hour. ", copies(hourly)),
        (0, daily) => format!("Everyone can start {} of this app a day. ", copies(daily)),
        (hourly, daily) => {
            format!("Everyone can start {} of this app an hour and {daily} a day. ", copies(hourly))
        }
    }
}

/// No instance of `template` is ready, and it is worth trying again after `wait`.
pub fn busy(template: &str, wait: Duration, request_id: &str) -> Page {
    let wait = wait.max(Duration::from_secs(1));
    Notice {
        sentence: Html::fill(
            "A fresh one is made as soon as there is room. Please try again in <span id=\"wait\">{{wait}}</span>.",
            &[("wait", Html::text(&humanize::wait(wait)))],
        ),
        actions: Html::fill(
            AGAIN,
            &[("template", Html::text(template)), ("millis", Html::number(wait.as_millis()))],
        ),
        script: AGAIN_SCRIPT,
        forms: true,
        ..here(Sign::Clock, "All copies are taken right now", request_id)
    }
    .page()
}

/// There is no template of the name that was asked for.
pub fn no_template(request_id: &str) -> Page {
    Notice {
        sentence: Html::markup(
            "It may have been renamed or taken down. Have a look at what else you can try.",
        ),
        ..here(Sign::Lost, "There is no such app here", request_id)
    }
    .page()
}

/// A fault of ours.
pub fn trouble(request_id: &str) -> Page {
    Notice {
        sentence: Html::markup("It was nothing that you did. Please go back and try again in a moment."),
        ..here(Sign::Broken, "Something went wrong on our side", request_id)
    }
    .page()
}

/// A page on our own host, with the way back to the front page.
fn here(sign: Sign, heading: &'static str, request_id: &str) -> Notice {
    Notice {
        sign,
        heading,
        sentence: Html::default(),
        actions: Html::markup(ALL_APPS),
        home: Html::markup("/"),
        request_id: Html::text(request_id),
        script: "",
        forms: false,
        framed: false,
    }
}
