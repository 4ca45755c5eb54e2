//! The front page: what can be tried, and the instances that the visitor has.

use std::time::Duration;

use super::html::Html;
use super::humanize;
use super::page::{Content, Page, Permissions, page};

const MARKUP: &str = include_str!("front_page.html");
const CARD: &str = include_str!("template_card.html");
const INSTANCE: &str = include_str!("running_instance.html");
const NO_TEMPLATES: &str = include_str!("no_templates.html");
const STYLE: &str = include_str!("front_page.css");
const SCRIPT: &str = include_str!("front_page.js");

/// Number of colours for a card's initial; the style sheet has a rule for each.
const TONES: u32 = 6;

/// A template on the front page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TemplateCard<'a> {
    /// The template's name, as in `POST /try/{name}`.
    pub(crate) name: &'a str,
    /// The title; if it is empty, the name is shown instead.
    pub(crate) title: &'a str,
    /// One sentence; may be empty.
    pub(crate) description: &'a str,
    /// The TTL of an instance.
    pub(crate) ttl: Duration,
    /// Number of instances that are ready now.
    pub(crate) ready: usize,
    /// The visitor's instance of the template, if there is one.
    pub(crate) running: Option<&'a RunningInstance>,
}

/// An instance that is assigned to the visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunningInstance {
    /// The name of its template.
    pub(crate) template: String,
    /// Its id, as in `POST /end/{id}`.
    pub(crate) id: String,
    /// Its absolute URL.
    pub(crate) url: String,
    /// Time until its deadline.
    pub(crate) remaining: Duration,
    /// How to log in; `None` if the template has no credentials.
    pub(crate) credentials: Option<String>,
}

/// Returns the front page. Its script updates the numbers by the event stream `/ready`.
pub(crate) fn front_page(cards: &[TemplateCard<'_>]) -> Page {
    let list =
        if cards.is_empty() { Html::markup(NO_TEMPLATES) } else { Html::concat(cards.iter().map(card)) };
    let layout = if cards.len() == 1 { "front single" } else { "front" };
    page(Content {
        title: None,
        home: Html::markup("/"),
        style: STYLE,
        script: SCRIPT,
        body: Html::fill(MARKUP, &[("layout", Html::markup(layout)), ("list", list)]),
        permissions: Permissions { may_connect: true, has_forms: true, may_be_framed: false },
    })
}

fn card(card: &TemplateCard<'_>) -> Html {
    let title = if card.title.trim().is_empty() { card.name } else { card.title };
    let initial = title.trim_start().chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let (ready, state) = match card.ready {
        0 => (Html::markup("being prepared…"), "none"),
        n => (Html::escape(&format!("{n} ready now")), "some"),
    };
    let about = match card.description.trim() {
        "" => Html::default(),
        text => Html::fill("<p class=\"about\">{{text}}</p>", &[("text", Html::escape(text))]),
    };
    Html::fill(
        CARD,
        &[
            ("name", Html::escape(card.name)),
            ("title", Html::escape(title)),
            ("initial", Html::escape(&initial)),
            ("tone", Html::number(tone(card.name))),
            ("ready", ready),
            ("ready_state", Html::markup(state)),
            ("about", about),
            ("ttl", Html::escape(&humanize::duration(card.ttl))),
            ("instance", card.running.map_or_else(Html::default, |running| instance(running, card.name))),
            ("try_state", Html::markup(if card.running.is_some() { " hidden" } else { "" })),
        ],
    )
}

fn instance(running: &RunningInstance, name: &str) -> Html {
    let credentials = running.credentials.as_deref().map_or_else(Html::default, |text| {
        Html::fill("<p class=\"about\">{{text}}</p>\n", &[("text", Html::escape(text))])
    });
    Html::fill(
        INSTANCE,
        &[
            ("name", Html::escape(name)),
            ("id", Html::escape(&running.id)),
            ("url", Html::escape(&running.url)),
            ("millis", Html::number(running.remaining.as_millis())),
            ("credentials", credentials),
            ("clock", Html::escape(&humanize::clock(running.remaining))),
        ],
    )
}

/// Returns the number of a template's colour, which depends on its name only.
fn tone(name: &str) -> u32 {
    name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % TONES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_sheet_has_every_colour_of_a_card() {
        assert!((0..TONES).all(|tone| STYLE.contains(&format!(".tone-{tone} "))));
    }

    #[test]
    fn every_part_that_the_script_selects_is_in_the_markup() {
        let markup = [MARKUP, CARD, INSTANCE].concat();
        let selected: Vec<&str> =
            SCRIPT.split("\"[").skip(1).map(|rest| rest.split(']').next().unwrap()).collect();
        assert!(selected.len() >= 5, "{selected:?}");
        for attribute in selected {
            assert!(markup.contains(attribute), "{attribute}");
        }
    }
}
