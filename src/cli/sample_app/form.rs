//! The body of a plain HTML form (`application/x-www-form-urlencoded`).

use percent_encoding::percent_decode_str;

/// Why a body is no valid form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    #[error("The form is not valid UTF-8.")]
    NotText,
    #[error("The form has the same field twice.")]
    DuplicateField,
}

/// The two fields of the guest book's form; a missing field is an empty one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) name: String,
    pub(super) text: String,
}

impl Form {
    /// Reads a form's body. Fields of other names are ignored.
    ///
    /// # Errors
    /// The body is not UTF-8, or has a field twice.
    pub(super) fn parse(body: &[u8]) -> Result<Form, FormError> {
        let body = std::str::from_utf8(body).map_err(|_| FormError::NotText)?;
        Ok(Form {
            name: field(body, "name")?.unwrap_or_default(),
            text: field(body, "text")?.unwrap_or_default(),
        })
    }
}

/// Returns the decoded value of one field of a form or a query; `None` when it is absent.
///
/// # Errors
/// A name or the value is not UTF-8, or the field is there twice.
pub(super) fn field(encoded: &str, wanted: &str) -> Result<Option<String>, FormError> {
    let mut found = None;
    for pair in encoded.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(key)? == wanted && found.replace(decode(value)?).is_some() {
            return Err(FormError::DuplicateField);
        }
    }
    Ok(found)
}

fn decode(encoded: &str) -> Result<String, FormError> {
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned()).map_err(|_| FormError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_and_percent_are_decoded_and_other_fields_ignored() {
        let form = Form::parse(b"x=1&name=Ada+L%C3%B8v&text=1%2B1%3D2%0D%0A%26&y").unwrap();
        assert_eq!(form, Form { name: "Ada Løv".into(), text: "1+1=2\r\n&".into() });
    }

    #[test]
    fn a_missing_field_is_empty() {
        assert_eq!(Form::parse(b""), Ok(Form::default()));
    }

    #[test]
    fn bytes_that_are_no_utf8_and_duplicate_fields_are_refused() {
        assert_eq!(Form::parse(b"name=%FF"), Err(FormError::NotText));
        assert_eq!(Form::parse(b"name=\xff"), Err(FormError::NotText));
        assert_eq!(Form::parse(b"name=a&name=b"), Err(FormError::DuplicateField));
    }
}
