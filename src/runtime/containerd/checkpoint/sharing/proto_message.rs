//! A protobuf message whose schema is known only in part: its bytes stay as they were read, except for fields that are
//! set. Pure.

use std::ops::Range;

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Why an image file or a message in it cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::runtime::containerd::checkpoint) enum Malformed {
    /// It ends within a record or a field.
    #[error("it is cut short")]
    Short,
    /// A varint that is too long, or a field of an unknown wire type.
    #[error("it is no protobuf message")]
    Nonsense,
    /// A message has 4 GiB or more.
    #[error("a message is too long")]
    Long,
    /// A required field is missing.
    #[error("a message lacks field {0}")]
    Lacks(u32),
    /// A field has a value that it cannot have.
    #[error("field {0} of a message is out of its bounds")]
    Bounds(u32),
}

/// The place of one field in a message. It is small, because a hostile message has a field in every two bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    number: u32,
    kind: FieldKind,
    /// The offset in the message where its number and wire type begin.
    start: u32,
    /// The offset where its value begins; of bytes, behind their length.
    value: u32,
    /// The offset behind its value.
    end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    Number,
    Bytes,
    /// A value of fixed width. Nothing here needs one.
    Other,
}

/// A message of less than 4 GiB, as it was read, and the places of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime::containerd::checkpoint) struct ProtoMessage {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Field {
    /// Reads the field that begins at an offset of a message.
    fn read(message: &[u8], start: usize) -> Result<Self, Malformed> {
        let mut rest = &message[start..];
        let (number, kind) = decode_key(&mut rest).map_err(|_| Malformed::Nonsense)?;
        let mut value = message.len() - rest.len();
        let kind = match kind {
            WireType::Varint => varint(&mut rest).map(|_| FieldKind::Number)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed::Short)?;
                value = message.len() - rest.len();
                skip(&mut rest, length).map(|()| FieldKind::Bytes)?
            }
            WireType::ThirtyTwoBit => skip(&mut rest, 4).map(|()| FieldKind::Other)?,
            WireType::SixtyFourBit => skip(&mut rest, 8).map(|()| FieldKind::Other)?,
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed::Nonsense),
        };
        let end = message.len() - rest.len();
        let [start, value, end] = [start, value, end].map(offset);
        Ok(Self { number, kind, start, value, end })
    }

    fn whole(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn value(&self) -> Range<usize> {
        self.value as usize..self.end as usize
    }
}

/// Returns an offset in a message as a [`Field`] stores it.
fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a message is read behind a length of 32 bits, and grows by little")
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed::Nonsense)
}

fn skip(bytes: &mut &[u8], length: usize) -> Result<(), Malformed> {
    *bytes = bytes.split_at_checked(length).ok_or(Malformed::Short)?.1;
    Ok(())
}

impl ProtoMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// The bytes are no protobuf message, or have 4 GiB or more.
    pub(in crate::runtime::containerd::checkpoint) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Malformed::Long);
        }
        let (mut fields, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let field = Field::read(bytes, at)?;
            at = field.end as usize;
            fields.push(field);
        }
        Ok(Self { bytes: bytes.to_vec(), fields })
    }

    /// Returns the message's bytes.
    pub(in crate::runtime::containerd::checkpoint) fn write(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Returns the number in a field, if the message has that field. Of several the last counts, as protobuf requires.
    pub(in crate::runtime::containerd::checkpoint) fn number(&self, number: u32) -> Option<u64> {
        let field = self.fields.iter().rev().find(|field| field.number == number)?;
        match field.kind {
            FieldKind::Number => varint(&mut &self.bytes[field.value()]).ok(),
            FieldKind::Bytes | FieldKind::Other => None,
        }
    }

    /// Returns all numbers of a repeated field that is not packed.
    pub(in crate::runtime::containerd::checkpoint) fn all_numbers(
        &self,
        number: u32,
    ) -> impl Iterator<Item = u64> {
        let fields =
            self.fields.iter().filter(move |field| field.number == number && field.kind == FieldKind::Number);
        fields.filter_map(|field| varint(&mut &self.bytes[field.value()]).ok())
    }

    /// Returns the number in a required field.
    ///
    /// # Errors
    /// The message lacks the field.
    pub(in crate::runtime::containerd::checkpoint) fn need(&self, number: u32) -> Result<u64, Malformed> {
        self.number(number).ok_or(Malformed::Lacks(number))
    }

    /// Returns the number of 32 bits in a required field.
    ///
    /// # Errors
    /// The message lacks the field, or its value is larger.
    pub(in crate::runtime::containerd::checkpoint) fn need_u32(&self, number: u32) -> Result<u32, Malformed> {
        self.need(number)?.try_into().map_err(|_| Malformed::Bounds(number))
    }

    /// Returns all values of a repeated field of texts or messages.
    pub(in crate::runtime::containerd::checkpoint) fn all_bytes(
        &self,
        number: u32,
    ) -> impl Iterator<Item = &[u8]> {
        let fields =
            self.fields.iter().filter(move |field| field.number == number && field.kind == FieldKind::Bytes);
        fields.map(|field| &self.bytes[field.value()])
    }

    /// Returns the text or message in a field, if the message has that field. Of several the last counts.
    pub(in crate::runtime::containerd::checkpoint) fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.all_bytes(number).last()
    }

    /// Sets the number in a field. It replaces the last number that the field has, or is added at the end.
    pub(in crate::runtime::containerd::checkpoint) fn set_number(&mut self, number: u32, value: u64) {
        let mut raw = Vec::new();
        encode_key(number, WireType::Varint, &mut raw);
        encode_varint(value, &mut raw);
        match self.fields.iter().rfind(|field| field.number == number).map(Field::whole) {
            Some(there) => {
                self.bytes.splice(there, raw);
                *self = Self::read(&self.bytes).expect("one field of a message replaced another");
            }
            None => self.push(&raw),
        }
    }

    /// Adds a text or a message to a repeated field.
    pub(in crate::runtime::containerd::checkpoint) fn push_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.push(&delimited(number, bytes));
    }

    fn push(&mut self, field: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend(field);
        self.fields.push(Field::read(&self.bytes, start).expect("the field was encoded here"));
    }

    /// Replaces each message in a field by what `change` returns for it; with `None` the message stays.
    ///
    /// # Errors
    /// The field has a value that is no message, or `change` fails. Then nothing is changed.
    pub(in crate::runtime::containerd::checkpoint) fn change_each<E: From<Malformed>>(
        &mut self,
        number: u32,
        mut change: impl FnMut(ProtoMessage) -> Result<Option<ProtoMessage>, E>,
    ) -> Result<(), E> {
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for field in &self.fields {
            if field.number == number {
                if field.kind != FieldKind::Bytes {
                    return Err(Malformed::Bounds(number).into());
                }
                if let Some(changed) = change(ProtoMessage::read(&self.bytes[field.value()])?)? {
                    bytes.extend(delimited(number, &changed.bytes));
                    continue;
                }
            }
            bytes.extend(&self.bytes[field.whole()]);
        }
        *self = Self::read(&bytes)?;
        Ok(())
    }
}

/// Encodes a field with a text or a message.
fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(bytes.len() + 10);
    encode_key(number, WireType::LengthDelimited, &mut raw);
    encode_varint(bytes.len() as u64, &mut raw);
    raw.extend(bytes);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_set_keep_their_bytes() {
        // Field 1 twice, the second as a varint that is longer than necessary; field 5 of 32 bits; field 2 a text.
        let bytes = [0x08, 1, 0x08, 0x82, 0x00, 0x2d, 1, 2, 3, 4, 0x12, 2, b'h', b'i'];
        let mut message = ProtoMessage::read(&bytes).unwrap();
        assert_eq!(message.write(), bytes);
        assert_eq!((message.number(1), message.number(5), message.number(9)), (Some(2), None, None));
        assert_eq!(message.bytes(2), Some(b"hi".as_slice()));
        assert_eq!(message.all_numbers(1).collect::<Vec<_>>(), [1, 2]);
        message.set_number(1, 300);
        message.set_number(9, 7);
        assert_eq!(
            message.write(),
            [0x08, 1, 0x08, 0xac, 0x02, 0x2d, 1, 2, 3, 4, 0x12, 2, b'h', b'i', 0x48, 7]
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for (bytes, why) in [
            (vec![0x08], Malformed::Nonsense),
            (vec![0x0b, 0x0c], Malformed::Nonsense),
            (vec![0x12, 5, 1], Malformed::Short),
            (vec![0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Malformed::Short),
            (vec![0x09, 1, 2], Malformed::Short),
            (vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Malformed::Nonsense),
        ] {
            assert_eq!(ProtoMessage::read(&bytes), Err(why), "{bytes:?}");
        }
        assert_eq!(ProtoMessage::default().need(3), Err(Malformed::Lacks(3)));
        let mut message = ProtoMessage::default();
        message.set_number(3, 1 << 32);
        assert_eq!(message.need_u32(3), Err(Malformed::Bounds(3)));
    }
}
