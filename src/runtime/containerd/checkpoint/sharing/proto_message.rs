//! A protobuf message whose schema is known only as far as it is needed: it is kept as the bytes that it was, and only
//! fields that are set are written anew.

use std::ops::Range;

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::criu_image::Malformed;

/// One field. Small, for a hostile message has one in every two bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    number: u32,
    kind: Kind,
    /// Where it begins in the message, with its number and its kind.
    start: u32,
    /// Where its value begins.
    value: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Bytes,
    /// Of a fixed width, which nothing here needs.
    Other,
}

/// See the module. No longer than 4 GiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Field {
    /// The field that begins at `start` of a message.
    fn read(message: &[u8], start: usize) -> Result<Self, Malformed> {
        let mut rest = &message[start..];
        let (number, kind) = decode_key(&mut rest).map_err(|_| Malformed::Nonsense)?;
        let mut value = message.len() - rest.len();
        let kind = match kind {
            WireType::Varint => varint(&mut rest).map(|_| Kind::Number)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed::Short)?;
                value = message.len() - rest.len();
                skip(&mut rest, length).map(|()| Kind::Bytes)?
            }
            WireType::ThirtyTwoBit => skip(&mut rest, 4).map(|()| Kind::Other)?,
            WireType::SixtyFourBit => skip(&mut rest, 8).map(|()| Kind::Other)?,
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed::Nonsense),
        };
        let end = message.len() - rest.len();
        let [start, value, end] = [start, value, end].map(place);
        Ok(Self { number, kind, start, value, end })
    }

    fn whole(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn value(&self) -> Range<usize> {
        self.value as usize..self.end as usize
    }
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a message is read behind a length of 32 bits, and grows by little")
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed::Nonsense)
}

fn skip(bytes: &mut &[u8], length: usize) -> Result<(), Malformed> {
    *bytes = bytes.split_at_checked(length).ok_or(Malformed::Short)?.1;
    Ok(())
}

impl Message {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
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

    pub(super) fn write(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// A number that it may have. Where it has several, the last counts, as protobuf has it.
    pub(super) fn number(&self, number: u32) -> Option<u64> {
        let field = self.fields.iter().rev().find(|field| field.number == number)?;
        match field.kind {
            Kind::Number => varint(&mut &self.bytes[field.value()]).ok(),
            Kind::Bytes | Kind::Other => None,
        }
    }

    /// All numbers of a field that are written one by one.
    pub(super) fn all_numbers(&self, number: u32) -> impl Iterator<Item = u64> {
        let fields =
            self.fields.iter().filter(move |field| field.number == number && field.kind == Kind::Number);
        fields.filter_map(|field| varint(&mut &self.bytes[field.value()]).ok())
    }

    /// A number that it must have.
    pub(super) fn need(&self, number: u32) -> Result<u64, Malformed> {
        self.number(number).ok_or(Malformed::Lacks(number))
    }

    /// A number of 32 bits that it must have.
    pub(super) fn need_u32(&self, number: u32) -> Result<u32, Malformed> {
        self.need(number)?.try_into().map_err(|_| Malformed::Bounds(number))
    }

    /// All texts, or messages, of a field.
    pub(super) fn all_bytes(&self, number: u32) -> impl Iterator<Item = &[u8]> {
        let texts =
            self.fields.iter().filter(move |field| field.number == number && field.kind == Kind::Bytes);
        texts.map(|field| &self.bytes[field.value()])
    }

    /// The text, or the message, of a field.
    pub(super) fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.all_bytes(number).last()
    }

    /// Sets a number, in the place of the one that is there.
    pub(super) fn set_number(&mut self, number: u32, value: u64) {
        let mut raw = Vec::new();
        encode_key(number, WireType::Varint, &mut raw);
        encode_varint(value, &mut raw);
        match self.fields.iter().rfind(|field| field.number == number).map(Field::whole) {
            Some(there) => {
                self.bytes.splice(there, raw);
                *self = Self::read(&self.bytes).expect("one field of a message gave way to another");
            }
            None => self.push(&raw),
        }
    }

    /// Adds a text, or a message.
    pub(super) fn push_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.push(&delimited(number, bytes));
    }

    fn push(&mut self, field: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend(field);
        self.fields.push(Field::read(&self.bytes, start).expect("it was just written"));
    }

    /// Has `change` make each message of a field into another, or leave it with `None`.
    pub(super) fn change_each<E: From<Malformed>>(
        &mut self,
        number: u32,
        mut change: impl FnMut(Message) -> Result<Option<Message>, E>,
    ) -> Result<(), E> {
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for field in &self.fields {
            if field.number == number {
                if field.kind != Kind::Bytes {
                    return Err(Malformed::Bounds(number).into());
                }
                if let Some(changed) = change(Message::read(&self.bytes[field.value()])?)? {
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

/// A field with a text, or a message.
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
    fn what_is_not_set_stays_as_it_was() {
        // Field 1 twice, the second with a number that is longer than it need be; field 5 of 32 bits; field 2 a text.
        let bytes = [0x08, 1, 0x08, 0x82, 0x00, 0x2d, 1, 2, 3, 4, 0x12, 2, b'h', b'i'];
        let mut message = Message::read(&bytes).unwrap();
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
    fn nonsense_is_refused() {
        for (bytes, why) in [
            (vec![0x08], Malformed::Nonsense),
            (vec![0x0b, 0x0c], Malformed::Nonsense),
            (vec![0x12, 5, 1], Malformed::Short),
            (vec![0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Malformed::Short),
            (vec![0x09, 1, 2], Malformed::Short),
            (vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Malformed::Nonsense),
        ] {
            assert_eq!(Message::read(&bytes), Err(why), "{bytes:?}");
        }
        assert_eq!(Message::default().need(3), Err(Malformed::Lacks(3)));
        let mut message = Message::default();
        message.set_number(3, 1 << 32);
        assert_eq!(message.need_u32(3), Err(Malformed::Bounds(3)));
    }
}
