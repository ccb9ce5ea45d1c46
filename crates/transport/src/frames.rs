//! From the bytes of a stream to frames, without copying payloads.
//!
//! Pure: bytes in, steps out; who calls decides where the payload goes, after it has seen the header.

use rkyv::util::AlignedVec;
use sensorium_wire::frame::{FrameError, PRELUDE_BYTES, Prelude};

/// The accumulator starts at this offset, so that a header, 40 bytes further on, is aligned to 16 and can be read in
/// place.
const OFFSET: usize = 8;

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The input is used up.
    More,
    /// Prelude and header are complete; [`FrameReader::header`] has the header's bytes.
    Head(Prelude),
    /// The next piece of the payload.
    Payload(&'a [u8]),
    /// The frame is complete.
    End,
}

#[derive(Clone, Copy)]
enum State {
    Prelude,
    Header(Prelude),
    Payload { left: u64 },
}

/// Reads one stream's frames.
pub struct FrameReader {
    head: AlignedVec<16>,
    state: State,
}

impl Default for FrameReader {
    fn default() -> Self {
        let mut head = AlignedVec::with_capacity(512);
        head.resize(OFFSET, 0);
        Self { head, state: State::Prelude }
    }
}

impl FrameReader {
    /// Takes the next step; `input` shrinks by what was used.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is then out of step and must end.
    pub fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, FrameError> {
        match self.state {
            State::Prelude => {
                if !self.fill(input, PRELUDE_BYTES) {
                    return Ok(Step::More);
                }
                let bytes = self.head[OFFSET..].first_chunk().expect("the prelude is complete");
                let prelude = Prelude::decode(bytes)?;
                self.state = State::Header(prelude);
                self.step(input)
            }
            State::Header(prelude) => {
                if !self.fill(input, PRELUDE_BYTES + prelude.header_bytes as usize) {
                    return Ok(Step::More);
                }
                self.state = State::Payload { left: prelude.payload_bytes };
                Ok(Step::Head(prelude))
            }
            State::Payload { left: 0 } => {
                self.head.resize(OFFSET, 0);
                self.state = State::Prelude;
                Ok(Step::End)
            }
            State::Payload { left } => {
                if input.is_empty() {
                    return Ok(Step::More);
                }
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let (piece, rest) = input.split_at(taken);
                *input = rest;
                self.state = State::Payload { left: left - taken as u64 };
                Ok(Step::Payload(piece))
            }
        }
    }

    /// The header's bytes, after [`Step::Head`] and until [`Step::End`].
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.head.get(OFFSET + PRELUDE_BYTES..).unwrap_or(&[])
    }

    /// Whether the stream may end here: between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Prelude) && self.head.len() == OFFSET
    }

    /// Moves bytes until the head has `bytes` of them; whether it has.
    fn fill(&mut self, input: &mut &[u8], bytes: usize) -> bool {
        let missing = (OFFSET + bytes).saturating_sub(self.head.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.head.extend_from_slice(taken);
        *input = rest;
        self.head.len() >= OFFSET + bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensorium_wire::codec::{FrameWriter, decode_submit};
    use sensorium_wire::{Kind, SubmitHeader};

    use super::*;

    fn frames(payloads: &[Vec<u8>]) -> Vec<u8> {
        let (mut out, mut writer) = (Vec::new(), FrameWriter::default());
        for (number, payload) in (0_u64..).zip(payloads) {
            let header = SubmitHeader { sequence: number, ..Default::default() };
            writer.put(&mut out, Kind::Submit, number, &header, payload.len() as u64);
            out.extend_from_slice(payload);
        }
        out
    }

    fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let (mut reader, mut payloads, mut payload) = (FrameReader::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut input = &piece[..];
            loop {
                match reader.step(&mut input).unwrap() {
                    Step::More => break,
                    Step::Head(prelude) => {
                        let header = decode_submit(prelude.version, reader.header()).unwrap();
                        assert_eq!(header.sequence, prelude.correlation);
                    }
                    Step::Payload(bytes) => payload.extend_from_slice(bytes),
                    Step::End => payloads.push(std::mem::take(&mut payload)),
                }
            }
        }
        assert!(reader.is_between_frames());
        payloads
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_stream_is_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5),
            cut in 1_usize..400,
        ) {
            let bytes = frames(&payloads);
            prop_assert_eq!(read(bytes.chunks(cut).map(<[u8]>::to_vec)), payloads);
        }

        #[test]
        fn any_bytes_end_in_more_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (mut reader, mut input) = (FrameReader::default(), &bytes[..]);
            for _ in 0..bytes.len() + 2 {
                match reader.step(&mut input) {
                    Ok(Step::More) | Err(_) => return Ok(()),
                    Ok(_) => {}
                }
            }
            prop_assert!(false, "no end");
        }
    }
}
