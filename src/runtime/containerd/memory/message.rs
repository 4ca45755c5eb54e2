//! A protobuf message whose schema is known only as far as it is needed: each field is kept as the bytes that it was,
//! and only those that are set are written anew.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::image::Malformed;

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    number: u32,
    value: Value,
    /// As it stood in the message, its number and kind included.
    raw: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    /// Of a fixed width, which nothing here needs.
    Other,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<Field>);

impl Field {
    fn number(number: u32, value: u64) -> Self {
        let mut raw = Vec::new();
        encode_key(number, WireType::Varint, &mut raw);
        encode_varint(value, &mut raw);
        Self { number, value: Value::Number(value), raw }
    }

    fn bytes(number: u32, bytes: &[u8]) -> Self {
        let mut raw = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut raw);
        encode_varint(bytes.len() as u64, &mut raw);
        raw.extend(bytes);
        Self { number, value: Value::Bytes(bytes.to_vec()), raw }
    }

    /// The first field of `bytes`, which are those after it then.
    fn read(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let whole = *bytes;
        let (number, kind) = decode_key(bytes).map_err(|_| Malformed::Nonsense)?;
        let value = match kind {
            WireType::Varint => Value::Number(varint(bytes)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(varint(bytes)?).map_err(|_| Malformed::Short)?;
                Value::Bytes(take(bytes, length)?.to_vec())
            }
            WireType::ThirtyTwoBit => take(bytes, 4).map(|_| Value::Other)?,
            WireType::SixtyFourBit => take(bytes, 8).map(|_| Value::Other)?,
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed::Nonsense),
        };
        let raw = whole[..whole.len() - bytes.len()].to_vec();
        Ok(Self { number, value, raw })
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed::Nonsense)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed::Short)?;
    *bytes = rest;
    Ok(taken)
}

impl Message {
    pub(super) fn read(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            fields.push(Field::read(&mut bytes)?);
        }
        Ok(Self(fields))
    }

    pub(super) fn write(&self) -> Vec<u8> {
        self.0.iter().flat_map(|field| field.raw.iter().copied()).collect()
    }

    /// A number that it may have. Where it has several, the last counts, as protobuf has it.
    pub(super) fn number(&self, number: u32) -> Option<u64> {
        self.0.iter().rev().find(|field| field.number == number).and_then(|field| match field.value {
            Value::Number(value) => Some(value),
            Value::Bytes(_) | Value::Other => None,
        })
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
        self.0.iter().filter(move |field| field.number == number).filter_map(|field| match &field.value {
            Value::Bytes(bytes) => Some(bytes.as_slice()),
            Value::Number(_) | Value::Other => None,
        })
    }

    /// The text, or the message, of a field.
    pub(super) fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.all_bytes(number).last()
    }

    /// Sets a number, in the place of the one that is there.
    pub(super) fn set_number(&mut self, number: u32, value: u64) {
        let field = Field::number(number, value);
        match self.0.iter_mut().rev().find(|field| field.number == number) {
            Some(there) => *there = field,
            None => self.0.push(field),
        }
    }

    /// Adds a text, or a message.
    pub(super) fn push_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.0.push(Field::bytes(number, bytes));
    }

    /// Has `change` make each message of a field into another, or leave it with `None`.
    pub(super) fn change_each<E: From<Malformed>>(
        &mut self,
        number: u32,
        mut change: impl FnMut(Message) -> Result<Option<Message>, E>,
    ) -> Result<(), E> {
        for field in self.0.iter_mut().filter(|field| field.number == number) {
            let Value::Bytes(bytes) = &field.value else { return Err(Malformed::Bounds(number).into()) };
            if let Some(changed) = change(Message::read(bytes)?)? {
                *field = Field::bytes(number, &changed.write());
            }
        }
        Ok(())
    }
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
