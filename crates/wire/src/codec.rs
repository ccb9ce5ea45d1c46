//! Headers to bytes and back.

use bytes::BufMut;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as RkyvError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::answer::AnswerHeader;
use crate::frame::{FrameError, Kind, PRELUDE_BYTES, Prelude, VERSION};
use crate::submit::SubmitHeader;

/// Bytes of a version-0 [`SubmitHeader`]: everything before `freshness_us`.
pub const SUBMIT_BYTES_V0: usize = 144;

/// Bytes of an [`AnswerHeader`] without hops: most answers come from the node that was asked.
pub const ANSWER_BYTES: usize = 232;

/// A type with an rkyv archive that can be written and checked.
pub trait Message: Sized
    + Archive<Archived: for<'a> CheckBytes<HighValidator<'a, RkyvError>> + Deserialize<Self, HighDeserializer<RkyvError>>>
    + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>
{
}

impl<T> Message for T where
    T: Archive<
            Archived: for<'a> CheckBytes<HighValidator<'a, RkyvError>> + Deserialize<T, HighDeserializer<RkyvError>>,
        > + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>
{
}

/// The archive of a message.
#[must_use]
pub fn encode<T: Message>(message: &T) -> AlignedVec {
    rkyv::to_bytes::<RkyvError>(message).expect("writing to memory cannot fail")
}

/// Reads an archive at any alignment; `None` when it is not valid. The bytes are copied once when misaligned.
#[must_use]
pub fn decode<T: Message>(bytes: &[u8]) -> Option<T> {
    if (bytes.as_ptr() as usize).is_multiple_of(16) {
        return rkyv::from_bytes::<T, RkyvError>(bytes).ok();
    }
    let mut aligned: AlignedVec = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, RkyvError>(&aligned).ok()
}

/// Reads the header of a frame of `kind`.
///
/// # Errors
/// [`FrameError::Header`] when it is not a valid archive.
pub fn decode_header<T: Message>(kind: Kind, bytes: &[u8]) -> Result<T, FrameError> {
    // The length is exact: rkyv finds the root at the end, so extra bytes in front would pass unnoticed.
    if bytes.len() != size_of::<T::Archived>() {
        return Err(FrameError::Header { kind, bytes: bytes.len() });
    }
    decode(bytes).ok_or(FrameError::Header { kind, bytes: bytes.len() })
}

/// Reads a job's header of this version or the one before.
///
/// # Errors
/// [`FrameError::Header`] when it is not a valid archive of the version that the prelude names.
pub fn decode_submit(version: u16, bytes: &[u8]) -> Result<SubmitHeader, FrameError> {
    if version >= 1 {
        return decode_header(Kind::Submit, bytes);
    }
    if bytes.len() != SUBMIT_BYTES_V0 {
        return Err(FrameError::Header { kind: Kind::Submit, bytes: bytes.len() });
    }
    decode_extended(Kind::Submit, bytes)
}

/// Reads an answer's header, with hops or without.
///
/// # Errors
/// [`FrameError::Header`] when it is not a valid archive of either length.
pub fn decode_answer(bytes: &[u8]) -> Result<AnswerHeader, FrameError> {
    if bytes.len() == ANSWER_BYTES { decode_extended(Kind::Answer, bytes) } else { decode_header(Kind::Answer, bytes) }
}

/// Reads a header whose last fields are absent, which is what zeros mean.
fn decode_extended<T: Message>(kind: Kind, bytes: &[u8]) -> Result<T, FrameError> {
    let full = size_of::<T::Archived>();
    let mut extended: AlignedVec = AlignedVec::with_capacity(full);
    extended.extend_from_slice(bytes);
    extended.resize(full, 0);
    decode_header(kind, &extended)
}

/// Writes frames into a buffer, reusing one scratch area for the header's archive.
#[derive(Default)]
pub struct FrameWriter {
    scratch: AlignedVec,
}

impl FrameWriter {
    /// Appends prelude and header to `out`; the payload follows by the caller.
    pub fn put<T: Message>(
        &mut self,
        out: &mut impl BufMut,
        kind: Kind,
        correlation: u64,
        header: &T,
        payload_bytes: u64,
    ) {
        self.write(header);
        put_frame(out, kind, correlation, &self.scratch, payload_bytes);
    }

    /// The same for an answer; the hops are left out where there are none.
    pub fn put_answer(&mut self, out: &mut impl BufMut, correlation: u64, header: &AnswerHeader, payload_bytes: u64) {
        self.write(header);
        let bytes = if header.hops().is_empty() { ANSWER_BYTES } else { self.scratch.len() };
        put_frame(out, Kind::Answer, correlation, &self.scratch[..bytes], payload_bytes);
    }

    fn write<T: Message>(&mut self, header: &T) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.scratch =
            rkyv::api::high::to_bytes_in::<_, RkyvError>(header, scratch).expect("writing to memory cannot fail");
    }
}

/// Appends a frame's prelude and its header, which is already encoded (or empty for kinds without one).
pub fn put_frame(out: &mut impl BufMut, kind: Kind, correlation: u64, header: &[u8], payload_bytes: u64) {
    let header_bytes = u32::try_from(header.len()).expect("headers are far below 4 GiB");
    let prelude = Prelude { version: VERSION, kind, header_bytes, correlation, payload_bytes };
    out.put_slice(&prelude.encode());
    out.put_slice(header);
}

/// Bytes of prelude and header of a frame with header type `T`.
#[must_use]
pub const fn frame_head_bytes<T: Archive>() -> usize {
    PRELUDE_BYTES + size_of::<T::Archived>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hop, Name};

    #[test]
    fn an_answer_carries_hops_only_where_there_are_some() {
        let mut answer = AnswerHeader { retry_after_us: 7, ..AnswerHeader::default() };
        let mut alone = Vec::new();
        FrameWriter::default().put_answer(&mut alone, 1, &answer, 0);
        assert_eq!(alone.len(), PRELUDE_BYTES + ANSWER_BYTES);
        assert_eq!(decode_answer(&alone[PRELUDE_BYTES..]).unwrap(), answer);
        answer.passed(Hop { node: Name::cut("regional"), node_ns: 2 });
        answer.passed(Hop { node: Name::cut("edge"), node_ns: 3 });
        let mut passed = Vec::new();
        FrameWriter::default().put_answer(&mut passed, 1, &answer, 0);
        let read = decode_answer(&passed[PRELUDE_BYTES..]).unwrap();
        assert_eq!(read, answer);
        assert_eq!(read.hops().iter().map(|hop| hop.node_ns).collect::<Vec<_>>(), [3, 2]);
        assert!(decode_answer(&passed[PRELUDE_BYTES..passed.len() - 1]).is_err());
    }

    #[test]
    fn a_header_of_the_version_before_is_shorter_by_what_was_appended() {
        let full = size_of::<<SubmitHeader as Archive>::Archived>();
        assert_eq!(full, SUBMIT_BYTES_V0 + 40);
        assert_eq!(encode(&SubmitHeader::default()).len(), full);
    }
}
