//! CRIU's image files: a magic number, then records, each a protobuf message behind its length. Pure.
//!
//! CRIU writes them, but they describe what an app did, so nothing in them is trusted: what is cut short or
//! inconsistent is an error. An image that is read and written unchanged has the same bytes.

use super::proto_message::{Malformed, ProtoMessage};

/// The magic numbers that are followed by a second one, which says the kind of image.
const MAGICS_WITH_KIND: [u32; 2] = [0x5456_4319, 0x5510_5940];

/// One image file of messages. Those of other kinds, such as `pages-*.img`, are plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime::containerd::checkpoint) struct CriuImage {
    magic: Vec<u8>,
    /// The messages in the order of the file.
    pub(in crate::runtime::containerd::checkpoint) records: Vec<ProtoMessage>,
}

impl CriuImage {
    /// Reads the bytes of a whole file.
    ///
    /// # Errors
    /// The file is cut short, or a record is no message.
    pub(in crate::runtime::containerd::checkpoint) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let first = bytes.first_chunk().ok_or(Malformed::Short)?;
        let length = if MAGICS_WITH_KIND.contains(&u32::from_le_bytes(*first)) { 8 } else { 4 };
        let (magic, mut rest) = bytes.split_at_checked(length).ok_or(Malformed::Short)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk().ok_or(Malformed::Short)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (record, after) = after.split_at_checked(length).ok_or(Malformed::Short)?;
            records.push(ProtoMessage::read(record)?);
            rest = after;
        }
        Ok(Self { magic: magic.to_vec(), records })
    }

    /// Returns the bytes of the file.
    pub(in crate::runtime::containerd::checkpoint) fn write(&self) -> Vec<u8> {
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

    /// Messages with numbers and texts in any field, nested once.
    fn messages() -> impl Strategy<Value = ProtoMessage> {
        let plain = prop::collection::vec(
            (1_u32..4000, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)),
            0..8,
        )
        .prop_map(|fields| {
            let mut message = ProtoMessage::default();
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

    fn images() -> impl Strategy<Value = CriuImage> {
        let magic = prop_oneof![
            Just(vec![0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4]),
            Just(vec![0x40, 0x59, 0x10, 0x55, 1, 2, 3, 4]),
            Just(vec![0x16, 0x31, 0x31, 0x58]),
        ];
        (magic, prop::collection::vec(messages(), 0..5))
            .prop_map(|(magic, records)| CriuImage { magic, records })
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn an_image_that_was_written_is_read_again(image in images()) {
            let bytes = image.write();
            let again = CriuImage::read(&bytes).unwrap();
            prop_assert_eq!(&again, &image);
            prop_assert_eq!(again.write(), bytes);
        }

        #[test]
        fn an_image_that_is_cut_short_is_refused_or_ends_between_records(image in images(), at in any::<prop::sample::Index>()) {
            let bytes = image.write();
            let cut = &bytes[..at.index(bytes.len())];
            if let Ok(less) = CriuImage::read(cut) {
                prop_assert!(less.records.len() < image.records.len());
                prop_assert_eq!(less.write(), cut);
            }
        }

        #[test]
        fn bytes_that_are_read_are_written_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(image) = CriuImage::read(&bytes) {
                prop_assert_eq!(image.write(), bytes);
            }
        }

        #[test]
        fn a_damaged_image_never_panics(image in images(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = image.write();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(image) = CriuImage::read(&bytes) {
                prop_assert_eq!(image.write(), bytes);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let bytes = [0x19, 0x43, 0x56, 0x54, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 8, 1];
        assert_eq!(CriuImage::read(&bytes), Err(Malformed::Short));
        assert_eq!(CriuImage::read(&[]), Err(Malformed::Short));
    }
}
