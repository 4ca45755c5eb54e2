//! CRIU's image files: a magic, then records, each a protobuf message behind its length.
//!
//! They were written by CRIU but describe what an app did, so nothing in them is believed: whatever is cut short or
//! contradicts itself is an error. What is read and written again unchanged is the same to the last byte.

use super::proto_message::Message;

/// What begins an image that says with a second number of which kind it is.
const MARKED: [u32; 2] = [0x5456_4319, 0x5510_5940];

/// Why an image file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It ends in the middle of something.
    #[error("it is cut short")]
    Short,
    /// A number that is no number, or a field of a kind that there is not.
    #[error("it is no protobuf message")]
    Nonsense,
    /// A message of 4 GiB or more.
    #[error("a message is too long")]
    Long,
    /// A field that every message of its kind has.
    #[error("a message lacks field {0}")]
    Lacks(u32),
    /// A field holds what it cannot.
    #[error("field {0} of a message is out of its bounds")]
    Bounds(u32),
}

/// One image file. Those of other kinds, such as `pages-*.img`, are plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    magic: Vec<u8>,
    /// The messages, in the order of the file.
    pub(super) records: Vec<Message>,
}

impl Image {
    /// Reads a whole file.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let first = bytes.first_chunk().ok_or(Malformed::Short)?;
        let length = if MARKED.contains(&u32::from_le_bytes(*first)) { 8 } else { 4 };
        let (magic, mut rest) = bytes.split_at_checked(length).ok_or(Malformed::Short)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk().ok_or(Malformed::Short)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (record, after) = after.split_at_checked(length).ok_or(Malformed::Short)?;
            records.push(Message::read(record)?);
            rest = after;
        }
        Ok(Self { magic: magic.to_vec(), records })
    }

    /// The file again.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = self.magic.clone();
        for record in &self.records {
            let record = record.write();
            let length = u32::try_from(record.len()).expect("a message was read behind a length of 32 bits");
            bytes.extend(length.to_le_bytes());
            bytes.extend(record);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers and texts under any field, nested once.
    fn messages() -> impl Strategy<Value = Message> {
        let plain = prop::collection::vec(
            (1_u32..4000, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)),
            0..8,
        )
        .prop_map(|fields| {
            let mut message = Message::default();
            for (number, value, bytes) in fields {
                message.set_number(number, value);
                message.push_bytes(number + 1, &bytes);
            }
            message
        });
        (plain.clone(), plain).prop_map(|(mut outer, inner)| {
            outer.push_bytes(14, &inner.write());
            outer
        })
    }

    fn images() -> impl Strategy<Value = Image> {
        let magic = prop_oneof![
            Just(vec![0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4]),
            Just(vec![0x40, 0x59, 0x10, 0x55, 1, 2, 3, 4]),
            Just(vec![0x16, 0x31, 0x31, 0x58]),
        ];
        (magic, prop::collection::vec(messages(), 0..5)).prop_map(|(magic, records)| Image { magic, records })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(image in images()) {
            let bytes = image.write();
            let again = Image::read(&bytes).unwrap();
            prop_assert_eq!(&again, &image);
            prop_assert_eq!(again.write(), bytes);
        }

        #[test]
        fn what_is_cut_short_is_refused_or_ends_between_records(image in images(), at in any::<prop::sample::Index>()) {
            let bytes = image.write();
            let cut = &bytes[..at.index(bytes.len())];
            if let Ok(less) = Image::read(cut) {
                prop_assert!(less.records.len() < image.records.len());
                prop_assert_eq!(less.write(), cut);
            }
        }

        #[test]
        fn whatever_is_read_is_written_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(image) = Image::read(&bytes) {
                prop_assert_eq!(image.write(), bytes);
            }
        }

        #[test]
        fn what_was_spoilt_never_panics(image in images(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = image.write();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(image) = Image::read(&bytes) {
                prop_assert_eq!(image.write(), bytes);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let bytes = [0x19, 0x43, 0x56, 0x54, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 8, 1];
        assert_eq!(Image::read(&bytes), Err(Malformed::Short));
        assert_eq!(Image::read(&[]), Err(Malformed::Short));
    }
}
