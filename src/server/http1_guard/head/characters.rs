//! The classes of bytes in a head.

/// Whether a byte is a control character, which may not stand in a header value. HTAB may.
pub(in crate::server::http1_guard) fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') | (b == 0x7f)
}

/// Whether a byte may stand in a token (RFC 9110, 5.6.2).
pub(in crate::server::http1_guard) fn is_tchar(b: u8) -> bool {
    const TCHAR: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 128u8 {
            table[b as usize] = b.is_ascii_alphanumeric();
            b += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut i = 0;
        while i < others.len() {
            table[others[i] as usize] = true;
            i += 1;
        }
        table
    };
    TCHAR[usize::from(b)]
}

/// Whether these bytes are a token (RFC 9110, 5.6.2): one or more token characters.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_tchar(*b))
}
