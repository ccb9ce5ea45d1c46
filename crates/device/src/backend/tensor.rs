//! Tensors as they pass between executors and backends: borrowed on the way in, owned on the way out.

use sensorium_wire::tensor::Dtype;

/// A tensor that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct NamedTensor<'a> {
    pub name: &'a str,
    pub dims: &'a [usize],
    pub data: TensorData<'a>,
}

/// Elements of a borrowed tensor, dense, last dimension innermost.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    U8(&'a [u8]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    F32(&'a [f32]),
    Bool(&'a [bool]),
}

/// A tensor of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<usize>,
    pub data: TensorBuffer,
}

/// Elements of an owned tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorBuffer {
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
}

impl Tensor {
    /// The tensor as an input called `name`.
    #[must_use]
    pub fn named<'a>(&'a self, name: &'a str) -> NamedTensor<'a> {
        NamedTensor { name, dims: &self.dims, data: self.data.view() }
    }

    /// The elements, if they are `f32`.
    #[must_use]
    pub fn f32s(&self) -> Option<&[f32]> {
        match &self.data {
            TensorBuffer::F32(values) => Some(values),
            _ => None,
        }
    }

    /// Elements per row, a row being everything under one index of the first dimension. 0 when there are no rows.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        match self.dims.split_first() {
            Some((rows, _)) if *rows > 0 => self.data.len() / rows,
            Some(_) => 0,
            None => self.data.len(),
        }
    }
}

impl TensorBuffer {
    /// An empty buffer; `None` for types that tensors here do not have.
    #[must_use]
    pub fn new(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::U8 => Some(Self::U8(Vec::new())),
            Dtype::I32 => Some(Self::I32(Vec::new())),
            Dtype::I64 => Some(Self::I64(Vec::new())),
            Dtype::F32 => Some(Self::F32(Vec::new())),
            Dtype::Bool => Some(Self::Bool(Vec::new())),
            Dtype::I8 | Dtype::I16 | Dtype::F16 | Dtype::F64 => None,
        }
    }

    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.view().dtype()
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&mut self) {
        match self {
            Self::U8(values) => values.clear(),
            Self::I32(values) => values.clear(),
            Self::I64(values) => values.clear(),
            Self::F32(values) => values.clear(),
            Self::Bool(values) => values.clear(),
        }
    }

    /// Appends `len` zeros to an `f32` buffer and gives them to be filled; `None` for other types.
    #[must_use]
    pub fn grow_f32(&mut self, len: usize) -> Option<&mut [f32]> {
        let Self::F32(values) = self else { return None };
        let start = values.len();
        values.resize(start + len, 0.0);
        Some(&mut values[start..])
    }

    /// Appends values to an `i32` buffer, each rounded to the nearest (halves to even) and clamped to what fits, what is no
    /// number as 0; `false`, and nothing is appended, for other types.
    #[must_use]
    pub fn extend_rounded(&mut self, rounded: &[f32]) -> bool {
        let Self::I32(values) = self else { return false };
        #[expect(clippy::cast_possible_truncation, reason = "clamping is what is promised")]
        values.extend(rounded.iter().map(|value| value.round_ties_even() as i32));
        true
    }

    /// Drops all but the first `len` elements.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::U8(values) => values.truncate(len),
            Self::I32(values) => values.truncate(len),
            Self::I64(values) => values.truncate(len),
            Self::F32(values) => values.truncate(len),
            Self::Bool(values) => values.truncate(len),
        }
    }

    #[must_use]
    pub fn view(&self) -> TensorData<'_> {
        match self {
            Self::U8(values) => TensorData::U8(values),
            Self::I32(values) => TensorData::I32(values),
            Self::I64(values) => TensorData::I64(values),
            Self::F32(values) => TensorData::F32(values),
            Self::Bool(values) => TensorData::Bool(values),
        }
    }

    /// Appends the elements whose little-endian bytes are `bytes`, at any alignment; `false`, and nothing is appended,
    /// when the length is not a whole number of elements or a `bool` is neither 0 nor 1.
    #[must_use]
    pub fn extend_from_bytes(&mut self, bytes: &[u8]) -> bool {
        fn extend<T: bytemuck::AnyBitPattern>(values: &mut Vec<T>, bytes: &[u8]) -> bool {
            let whole = bytes.len().is_multiple_of(size_of::<T>());
            if whole {
                match bytemuck::try_cast_slice(bytes) {
                    Ok(aligned) => values.extend_from_slice(aligned),
                    Err(_) => values.extend(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>)),
                }
            }
            whole
        }
        match self {
            Self::U8(values) => extend(values, bytes),
            Self::I32(values) => extend(values, bytes),
            Self::I64(values) => extend(values, bytes),
            Self::F32(values) => extend(values, bytes),
            Self::Bool(values) => {
                let valid = bytes.iter().all(|byte| *byte <= 1);
                if valid {
                    values.extend(bytes.iter().map(|byte| *byte == 1));
                }
                valid
            }
        }
    }
}

impl<'a> TensorData<'a> {
    #[must_use]
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::U8(_) => Dtype::U8,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::F32(_) => Dtype::F32,
            Self::Bool(_) => Dtype::Bool,
        }
    }

    /// Elements.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements' bytes in memory, which are little-endian on every machine this runs on.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::U8(values) => values,
            Self::I32(values) => bytemuck::cast_slice(values),
            Self::I64(values) => bytemuck::cast_slice(values),
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bool(values) => bytemuck::cast_slice(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_at_any_alignment() {
        let values = [1.5_f32, -2.0, f32::MIN_POSITIVE];
        let mut bytes = vec![9];
        bytes.extend_from_slice(bytemuck::cast_slice(&values));
        for (dtype, expected) in [(Dtype::F32, 3), (Dtype::I32, 3), (Dtype::U8, 12)] {
            let mut buffer = TensorBuffer::new(dtype).unwrap();
            assert!(buffer.extend_from_bytes(&bytes[1..]));
            assert_eq!((buffer.len(), buffer.dtype()), (expected, dtype));
            assert_eq!(buffer.view().bytes(), &bytes[1..]);
        }
    }

    #[test]
    fn integers_are_rounded_and_clamped() {
        let mut buffer = TensorBuffer::I32(vec![9]);
        assert!(buffer.extend_rounded(&[0.5, 1.5, -0.6, 254.999, f32::INFINITY, f32::NAN]));
        assert_eq!(buffer, TensorBuffer::I32(vec![9, 0, 2, -1, 255, i32::MAX, 0]));
        assert!(!TensorBuffer::F32(Vec::new()).extend_rounded(&[1.0]));
    }

    #[test]
    fn halves_and_strange_bools_are_refused() {
        assert!(!TensorBuffer::F32(Vec::new()).extend_from_bytes(&[0; 7]));
        let mut bools = TensorBuffer::Bool(Vec::new());
        assert!(bools.extend_from_bytes(&[0, 1]) && !bools.extend_from_bytes(&[1, 2]));
        assert_eq!(bools, TensorBuffer::Bool(vec![false, true]));
        assert!(TensorBuffer::new(Dtype::F16).is_none());
    }
}
