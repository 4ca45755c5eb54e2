//! A head with its target in origin form, whatever form the client sent. Pure.

use super::check::next_line;
use super::checked_head::Head;
use super::fields::Field;

/// Returns a checked head whose target has an authority in the form that an origin server gets: with the path and query
/// as its target, and the authority as its only `Host` (RFC 9112, sections 3.2.2 and 3.2.4). So no engine has to choose
/// between the two. The result may be longer by a few bytes, and must be checked again.
pub fn to_origin_form(head: &[u8], info: &Head) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len() + 16);
    let Ok((line, mut at)) = next_line(head, 0) else { return out };
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // The host of a head with an authority in its target stands there, after the method and a space.
    let path = target.get(info.host.end.saturating_sub(method.len() + 1)..).unwrap_or_default();
    out.extend_from_slice(method);
    let before_path: &[u8] = match path.first() {
        Some(b'/') => b" ",
        None if method == b"OPTIONS" => b" *",
        _ => b" /",
    };
    out.extend_from_slice(before_path);
    out.extend_from_slice(path);
    out.push(b' ');
    out.extend_from_slice(words.next().unwrap_or_default());
    out.extend_from_slice(b"\r\nHost: ");
    out.extend_from_slice(info.host(head).as_bytes());
    out.extend_from_slice(b"\r\n");
    while let Ok((line, next)) = next_line(head, at) {
        let is_host = Field::parse(line).is_ok_and(|field| field.name.eq_ignore_ascii_case(b"host"));
        if !is_host {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        at = next;
        if line.is_empty() {
            break;
        }
    }
    out
}
