//! The front page: what there is to try, and the copies that the visitor has.

use std::time::Duration;

use super::html::Html;
use super::humanize;
use super::page::{Allow, Content, Page, page};

const PAGE: &str = include_str!("front.html");
const CARD: &str = include_str!("card.html");
const COPY: &str = include_str!("copy.html");
const EMPTY: &str = include_str!("empty.html");
const STYLE: &str = include_str!("front.css");
const SCRIPT: &str = include_str!("front.js");

/// Colours that a card's letter can have; the style sheet has a rule for each.
const TONES: u32 = 6;

/// A template on the front page.
#[derive(Debug, Clone, Copy)]
pub struct Card<'a> {
    /// The template's name, as in `POST /try/{name}`.
    pub name: &'a str,
    /// What people call it; the name stands in for an empty one.
    pub title: &'a str,
    /// One sentence, may be empty.
    pub description: &'a str,
    /// How long an instance lasts.
    pub ttl: Duration,
    /// Instances that are ready now.
    pub ready: usize,
    /// The visitor's own instance of it.
    pub running: Option<&'a Running>,
}

/// An instance that the visitor has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The name of its template.
    pub template: String,
    /// Its id, as in `POST /end/{id}`.
    pub id: String,
    /// Where it is: an absolute URL.
    pub url: String,
    /// Time until it ends.
    pub remaining: Duration,
    /// What to log in with, where there is anything to say about it.
    pub credentials: Option<String>,
}

/// The front page. Its numbers are those of now; the page's script keeps them so, by the event stream `/ready`.
pub fn front(cards: &[Card<'_>]) -> Page {
    let list = if cards.is_empty() { Html::markup(EMPTY) } else { Html::concat(cards.iter().map(card)) };
    let layout = if cards.len() == 1 { "front one" } else { "front" };
    page(Content {
        title: None,
        home: Html::markup("/"),
        style: STYLE,
        script: SCRIPT,
        body: Html::fill(PAGE, &[("layout", Html::markup(layout)), ("list", list)]),
        allow: Allow { connect: true, forms: true, framed: false },
    })
}

fn card(card: &Card<'_>) -> Html {
    let title = if card.title.trim().is_empty() { card.name } else { card.title };
    let initial = title.trim_start().chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let (ready, state) = match card.ready {
        0 => (Html::markup("being prepared…"), "none"),
        n => (Html::text(&format!("{n} ready now")), "some"),
    };
    let about = match card.description.trim() {
        "" => Html::default(),
        text => Html::fill("<p class=\"about\">{{text}}</p>", &[("text", Html::text(text))]),
    };
    Html::fill(
        CARD,
        &[
            ("name", Html::text(card.name)),
            ("title", Html::text(title)),
            ("initial", Html::text(&initial)),
            ("tone", Html::number(tone(card.name))),
            ("ready", ready),
            ("ready_state", Html::markup(state)),
            ("about", about),
            ("lasts", Html::text(&humanize::lasting(card.ttl))),
            ("copy", card.running.map_or_else(Html::default, |running| copy(running, card.name))),
            ("try_state", Html::markup(if card.running.is_some() { " hidden" } else { "" })),
        ],
    )
}

fn copy(running: &Running, name: &str) -> Html {
    let credentials = running.credentials.as_deref().map_or_else(Html::default, |text| {
        Html::fill("<p class=\"about\">{{text}}</p>\n", &[("text", Html::text(text))])
    });
    Html::fill(
        COPY,
        &[
            ("name", Html::text(name)),
            ("id", Html::text(&running.id)),
            ("url", Html::text(&running.url)),
            ("millis", Html::number(running.remaining.as_millis())),
            ("credentials", credentials),
            ("clock", Html::text(&humanize::clock(running.remaining))),
        ],
    )
}

/// The same colour for a template at each visit.
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
    fn every_part_that_the_script_looks_for_is_in_the_markup() {
        let markup = [PAGE, CARD, COPY].concat();
        let wanted: Vec<&str> =
            SCRIPT.split("\"[").skip(1).map(|rest| rest.split(']').next().unwrap()).collect();
        assert!(wanted.len() >= 5, "{wanted:?}");
        for attribute in wanted {
            assert!(markup.contains(attribute), "{attribute}");
        }
    }
}
