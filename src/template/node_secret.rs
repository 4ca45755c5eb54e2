//! The secret of a node or of a cluster, and the keys that are derived from it, one for each use.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::{hkdf, hmac};

use super::Secret;

/// The fewest bytes that a text must encode to be used without stretching.
const STRONG_BYTES: usize = 32;

/// The fewest different digits of a hexadecimal text from a random source. Fewer than 8 of 16 in 64 digits have a chance
/// of less than 1 in 10^15.
const MIN_DIFFERENT_DIGITS: usize = 8;

/// The salt of both derivations. It is fixed, because all nodes must derive the same keys from the same text without
/// asking one another; it only keeps the results apart from those of other programs.
const SALT: &[u8] = b"try-it-now node secret v1";

/// A secret from which a key is derived for each use, so that what one use shows says nothing of another.
///
/// A hook may show its visitor a text that was derived from the secret. From that text the visitor can test guesses of
/// the secret on a computer of their own, and who knows the secret can sign hops. So each guess must be one of 2^256,
/// or cost as much as scrypt does.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSecret {
    /// As the operator or the random source wrote it.
    text: Secret,
    /// What scrypt made of a text that may be guessed; `None` where the text itself is used.
    stretched: Option<[u8; STRONG_BYTES]>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Signing requests that one node forwards to another.
    HopHeader,
    /// The random texts of hooks.
    HookTexts,
    /// Signing challenges of the proof of work.
    ProofOfWork,
}

impl KeyUse {
    /// Returns what separates the key from those of other uses.
    fn info(self) -> &'static [u8] {
        match self {
            Self::HopHeader => b"hop header v2",
            Self::HookTexts => b"random texts of hooks v2",
            Self::ProofOfWork => b"proof of work",
        }
    }
}

impl NodeSecret {
    /// Wraps a text with at least 256 bits from a random source.
    pub fn random(text: Secret) -> Self {
        Self { text, stretched: None }
    }

    /// Wraps a text that an operator chose. Unless it [looks random](is_strong), scrypt stretches it, which
    /// takes a good part of a second and 128 MiB of memory. So the caller must not be an async task.
    pub fn chosen(text: Secret) -> Self {
        let stretched = (!is_strong(text.reveal())).then(|| {
            let mut bytes = [0; STRONG_BYTES];
            scrypt::scrypt(text.reveal().as_bytes(), SALT, &scrypt::Params::recommended(), &mut bytes)
                .expect("scrypt can make 32 bytes");
            bytes
        });
        Self { text, stretched }
    }

    /// Returns the key for one use: HKDF with SHA-256.
    pub fn key(&self, key_use: KeyUse) -> hmac::Key {
        let root = self.stretched.as_ref().map_or(self.text.reveal().as_bytes(), |bytes| bytes);
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(root);
        let info = [key_use.info()];
        root.expand(&info, hmac::HMAC_SHA256).expect("HKDF can make 32 bytes").into()
    }

    /// Returns the key from which earlier versions derived the random texts of hooks: the text itself.
    pub fn earlier_hook_texts_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.text.reveal().as_bytes())
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret(..)")
    }
}

/// Returns whether a text looks as if a random source made it: 32 bytes or more, as hexadecimal digits or as base64 of
/// either alphabet. A text of letters only, or of few different digits, is more likely a person's; to stretch a random
/// one by mistake does no harm.
pub fn is_strong(text: &str) -> bool {
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let different: BTreeSet<u8> = text.bytes().collect();
        return text.len() >= 2 * STRONG_BYTES && different.len() >= MIN_DIFFERENT_DIGITS;
    }
    let has = |kind: fn(&u8) -> bool| text.bytes().any(|byte| kind(&byte));
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decodes = [STANDARD, URL_SAFE].iter().any(|alphabet| {
        let decoded = GeneralPurpose::new(alphabet, config).decode(text);
        decoded.is_ok_and(|bytes| bytes.len() >= STRONG_BYTES)
    });
    decodes && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const WEAK: &str = "0123456789abcdef";

    fn tag(secret: &NodeSecret, key_use: KeyUse) -> String {
        hex::encode(hmac::sign(&secret.key(key_use), b"message"))
    }

    // The expected values are those of `hashlib.scrypt` and `hmac` of Python.
    #[test]
    fn a_random_secret_is_used_as_it_is_and_each_use_has_a_key_of_its_own() {
        for secret in [NodeSecret::random(Secret::new(STRONG)), NodeSecret::chosen(Secret::new(STRONG))] {
            assert_eq!(
                tag(&secret, KeyUse::HopHeader),
                "d94e6599edc2e167573022e11e06b446195f8af1e0929d0694a81d4cede10027"
            );
            assert_eq!(
                tag(&secret, KeyUse::HookTexts),
                "5c9ef7f74376934d4e809e40051af4df558eea3cfe2b4a5dc4271094b2c616eb"
            );
        }
    }

    #[test]
    fn a_guessable_secret_is_stretched_to_the_same_keys_on_each_node() {
        let secret = NodeSecret::chosen(Secret::new(WEAK));
        assert_eq!(
            secret.stretched.map(hex::encode).as_deref(),
            Some("352f14970f998d0bc809ef7bfa4501a8a053a855f51721edc10181cf2e55a289")
        );
        assert_eq!(
            tag(&secret, KeyUse::HopHeader),
            "d543b32e0da768bc2e42e51c3d685efc6012e300c3550aba78f372ca5250f6ff"
        );
        assert_eq!(
            tag(&secret, KeyUse::HookTexts),
            "de10a290a10722279ba6f9fa3a29d0974f06d2500edcbcda1059f192603fccac"
        );
        // The cheap key for instances of earlier versions is none of these.
        let earlier = hex::encode(hmac::sign(&secret.earlier_hook_texts_key(), b"message"));
        let raw = hmac::Key::new(hmac::HMAC_SHA256, WEAK.as_bytes());
        assert_eq!(earlier, hex::encode(hmac::sign(&raw, b"message")));
    }

    #[test]
    fn only_the_form_of_32_random_bytes_or_more_counts_as_random() {
        let strong = [
            STRONG,
            &STRONG.to_uppercase(),
            "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
            "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA",
            "q83vEjRWeJCrze8SNFZ4kKv_7xI0VniQq83-EjRWeJA",
            "q83vEjRWeJCrze8SNFZ4kKv/7xI0VniQq83+EjRWeJA=",
        ];
        for text in strong {
            assert!(is_strong(text), "{text}");
        }
        let weak = [
            WEAK,
            &STRONG[2..],
            &"01".repeat(32),
            &"a".repeat(100),
            "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeA==",
            "q83vEjRWeJCrze8SNFZ4kKv_7xI0VniQq83+EjRWeJA",
            "correcthorsebatterystaplecorrecthorsebatterystap",
            "a long sentence with 1 digit, a Capital and 32 bytes or more",
        ];
        for text in weak {
            assert!(!is_strong(text), "{text}");
        }
    }

    #[test]
    fn neither_the_secret_nor_what_it_was_stretched_to_is_printed() {
        let secret = NodeSecret { text: Secret::new(WEAK), stretched: Some([7; STRONG_BYTES]) };
        assert_eq!(format!("{secret:?}"), "NodeSecret(..)");
    }
}
