//! The container's numbers and strings.

use thiserror::Error;

/// Why a field cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("it ends within a field")]
    Short,
    #[error("a number does not fit 64 bits")]
    Overflow,
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    read: usize,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, read: 0 }
    }

    /// Bytes read so far.
    pub(super) const fn read(&self) -> usize {
        self.read
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.read == self.bytes.len()
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let taken = self.bytes[self.read..].get(..length).ok_or(Malformed::Short)?;
        self.read += length;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// An unsigned number of any length (`v`): seven bits a byte, most significant first; the top bit says that more
    /// follow.
    pub(super) fn unsigned(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        loop {
            let byte = self.byte()?;
            if value >> 57 != 0 {
                return Err(Malformed::Overflow);
            }
            value = value << 7 | u64::from(byte & 0x7f);
            if byte < 0x80 {
                return Ok(value);
            }
        }
    }

    /// A signed number (`s`): 0, 1, -1, 2, -2, … are counted from 0.
    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.unsigned()?;
        let magnitude = i64::try_from(value.div_ceil(2)).map_err(|_| Malformed::Overflow)?;
        Ok(if value.is_multiple_of(2) { -magnitude } else { magnitude })
    }

    /// A number that has to be at most `max`; `name` is for the error.
    pub(super) fn bounded(&mut self, max: u64, name: &'static str) -> Result<u64, Malformed> {
        let value = self.unsigned()?;
        if value <= max { Ok(value) } else { Err(Malformed::OutOfRange(name)) }
    }

    /// A number of 32 bits.
    pub(super) fn small(&mut self, name: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.unsigned()?).map_err(|_| Malformed::OutOfRange(name))
    }

    /// Bytes with their length in front (`vb`).
    pub(super) fn string(&mut self, max: u64, name: &'static str) -> Result<&'a [u8], Malformed> {
        let length = self.bounded(max, name)?;
        self.take(usize::try_from(length).map_err(|_| Malformed::OutOfRange(name))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length() {
        let unsigned = |bytes: &[u8]| Fields::new(bytes).unsigned();
        assert_eq!(unsigned(&[0x00]), Ok(0));
        assert_eq!(unsigned(&[0x85, 0x80, 0x00]), Ok(81_920));
        assert_eq!(unsigned(&[0x81]), Err(Malformed::Short));
        let most = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(unsigned(&most), Ok(u64::MAX));
        assert_eq!(unsigned(&[0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Malformed::Overflow));
        let signed = |byte: u8| Fields::new(&[byte]).signed().unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(signed), [0, 1, -1, 2, -2]);
        assert_eq!(Fields::new(&most).signed(), Err(Malformed::Overflow));
        assert_eq!(Fields::new(&[2, b'h', b'i']).string(2, "name"), Ok(&b"hi"[..]));
        assert_eq!(Fields::new(&[3, b'h', b'i']).string(2, "name"), Err(Malformed::OutOfRange("name")));
        assert_eq!(Fields::new(&[3, b'h', b'i']).string(9, "name"), Err(Malformed::Short));
    }
}
