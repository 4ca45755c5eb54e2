//! Markup that is safe in a page. A text enters a page only as [`Html`]: escaped, or as part of the program.

/// A piece of HTML that is safe between tags and in quoted attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    /// Escapes any text.
    pub(crate) fn escape(text: &str) -> Html {
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                other => escaped.push(other),
            }
        }
        Html(escaped)
    }

    /// Takes markup that is part of the program.
    pub(crate) fn markup(constant: &'static str) -> Html {
        Html(constant.to_owned())
    }

    /// Formats a number.
    pub(crate) fn number(n: impl Into<u128>) -> Html {
        Html(n.into().to_string())
    }

    /// Fills the slots `{{name}}` of markup that is part of the program. Values are not searched for slots. A slot
    /// without a value stays empty, so that a page never fails; with debug assertions, which tests have, it panics.
    pub(crate) fn fill(markup: &'static str, values: &[(&str, Html)]) -> Html {
        let length: usize = values.iter().map(|(_, value)| value.0.len()).sum();
        let mut filled = String::with_capacity(markup.len() + length);
        let mut rest = markup;
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

    /// Joins pieces in their order.
    pub(crate) fn concat(pieces: impl IntoIterator<Item = Html>) -> Html {
        Html(pieces.into_iter().map(|piece| piece.0).collect())
    }

    /// Returns the markup as a string.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_with_a_meaning_in_html_is_escaped() {
        let text = Html::escape(r#"<a href="x" title='y'>&amp;</a>"#).into_string();
        assert_eq!(text, "&lt;a href=&quot;x&quot; title=&#39;y&#39;&gt;&amp;amp;&lt;/a&gt;");
        assert_eq!(Html::escape("Zoë 語 🎈").into_string(), "Zoë 語 🎈");
    }

    #[test]
    fn a_value_that_looks_like_a_slot_is_not_filled() {
        let values = [("a", Html::escape("{{b}}")), ("b", Html::number(7u32))];
        assert_eq!(Html::fill("{{a}} and {{b}}.", &values).into_string(), "{{b}} and 7.");
    }
}
