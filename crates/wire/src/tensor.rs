//! Element types of tensors and their sizes.

use rkyv::{Archive, Deserialize, Serialize};

/// Element type of a tensor, little-endian.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Dtype {
    #[default]
    U8 = 0,
    I8 = 1,
    I16 = 2,
    I32 = 3,
    I64 = 4,
    F16 = 5,
    F32 = 6,
    F64 = 7,
    Bool = 8,
}

impl Dtype {
    /// Every type, in the order of its code on the wire.
    pub const ALL: [Self; 9] =
        [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64, Self::F16, Self::F32, Self::F64, Self::Bool];

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::I16 | Self::F16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The short name: `u8`, `f32`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bool => "bool",
        }
    }

    /// The type of a code on the wire or in shared memory.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Bytes of a dense tensor, or `None` when the product does not fit.
#[must_use]
pub fn tensor_bytes(dtype: Dtype, shape: &[u32]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes() as u64, |bytes, dim| bytes.checked_mul(u64::from(*dim)))
}
