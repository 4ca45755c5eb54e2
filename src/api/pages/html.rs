//! The only way for a text to get into a page: escaped, unless the program itself wrote it.

/// A piece of HTML that is safe between tags and in quoted attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    /// Any text, made harmless.
    pub(crate) fn text(text: &str) -> Html {
        let mut safe = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => safe.push_str("&amp;"),
                '<' => safe.push_str("&lt;"),
                '>' => safe.push_str("&gt;"),
                '"' => safe.push_str("&quot;"),
                '\'' => safe.push_str("&#39;"),
                other => safe.push(other),
            }
        }
        Html(safe)
    }

    /// Markup that is part of the program.
    pub(crate) fn markup(written_here: &'static str) -> Html {
        Html(written_here.to_owned())
    }

    /// A number.
    pub(crate) fn number(n: impl Into<u128>) -> Html {
        Html(n.into().to_string())
    }

    /// A template that is part of the program, with its slots `{{name}}` filled. Values are not searched for
    /// slots. A slot without a value stays empty; so does a whole page never fail (the tests, which run with debug
    /// assertions, hold templates and values together).
    pub(crate) fn fill(template: &'static str, values: &[(&str, Html)]) -> Html {
        let room: usize = values.iter().map(|(_, value)| value.0.len()).sum();
        let mut filled = String::with_capacity(template.len() + room);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            filled.push_str(before);
            let Some((slot, after)) = after.split_once("}}") else { break };
            let value = values.iter().find(|(name, _)| *name == slot);
            debug_assert!(value.is_some(), "no value for the slot {slot}");
            filled.push_str(value.map_or("", |(_, value)| &value.0));
            rest = after;
        }
        filled.push_str(rest);
        Html(filled)
    }

    /// All pieces, one after the other.
    pub(crate) fn concat(pieces: impl IntoIterator<Item = Html>) -> Html {
        Html(pieces.into_iter().map(|piece| piece.0).collect())
    }

    /// The finished document.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_with_a_meaning_in_html_is_escaped() {
        let text = Html::text(r#"<a href="x" title='y'>&amp;</a>"#).into_string();
        assert_eq!(text, "&lt;a href=&quot;x&quot; title=&#39;y&#39;&gt;&amp;amp;&lt;/a&gt;");
        assert_eq!(Html::text("Zoë 語 🎈").into_string(), "Zoë 語 🎈");
    }

    #[test]
    fn a_value_that_looks_like_a_slot_is_not_filled() {
        let values = [("a", Html::text("{{b}}")), ("b", Html::number(7u32))];
        assert_eq!(Html::fill("{{a}} and {{b}}.", &values).into_string(), "{{b}} and 7.");
    }
}
