//! The language that Sensorium's processes speak: identifiers, limits, message headers, results and their encoding.
//!
//! This crate does no I/O, keeps no state and knows no clock. Every limit of the protocol is written once, in
//! [`limits`]. The byte layout is described in `docs/wire.md` and held by golden-byte tests.

#[macro_use]
mod coded;

pub mod answer;
pub mod codec;
pub mod event;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod peer;
pub mod principal;
pub mod receipt;
pub mod rejection;
pub mod result;
pub mod session;
pub mod source;
pub mod submit;
pub mod tensor;

pub use answer::{AnswerHeader, BodyKind, Outcome};
pub use event::{Event, EventBody};
pub use frame::{FrameError, Kind, Prelude};
pub use ids::{JobId, Name};
pub use principal::{Principal, Role, Tier};
pub use receipt::{Hop, Receipt, Stage};
pub use rejection::{Reason, Rejection};
pub use submit::{Modality, PayloadKind, PixelFormat, SubmitHeader, Urgency};
pub use tensor::Dtype;
