//! Element types of tensors and their sizes.

coded! {
    /// Element type of a tensor, little-endian.
    #[derive(Default)]
    pub enum Dtype {
        #[default]
        U8 = 0 "u8",
        I8 = 1 "i8",
        I16 = 2 "i16",
        I32 = 3 "i32",
        I64 = 4 "i64",
        F16 = 5 "f16",
        F32 = 6 "f32",
        F64 = 7 "f64",
        Bool = 8 "bool",
    }
}

impl Dtype {
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
}

/// Bytes of a dense tensor, or `None` when the product does not fit.
#[must_use]
pub fn tensor_bytes(dtype: Dtype, shape: &[u32]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes() as u64, |bytes, dim| bytes.checked_mul(u64::from(*dim)))
}
