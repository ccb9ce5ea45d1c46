//! Whether tensors fit a network. Pure: on a GPU memory is addressed by hand, so nothing is left to the runtime to find.

use sensorium_models::{Signature, TensorSpec};

use crate::backend::{NamedTensor, Tensor, TensorBuffer};

/// Most bytes of one tensor on its way to or from a GPU.
pub(super) const TENSOR_BYTES_MAX: usize = 1 << 30;

/// The inputs in the order of the signature, each of its type and shape and with as many elements as that says.
///
/// # Errors
/// What does not fit, with the input's name.
pub(super) fn fitting<'a, 'b>(
    signature: &Signature,
    inputs: &'b [NamedTensor<'a>],
) -> Result<Vec<&'b NamedTensor<'a>>, String> {
    if let Some(other) = inputs.iter().find(|input| !signature.inputs.iter().any(|spec| spec.name == input.name)) {
        return Err(format!("there is no input {}", other.name));
    }
    signature.inputs.iter().map(|spec| one(spec, inputs)).collect()
}

fn one<'a, 'b>(spec: &TensorSpec, inputs: &'b [NamedTensor<'a>]) -> Result<&'b NamedTensor<'a>, String> {
    let name = &spec.name;
    let mut given = inputs.iter().filter(|input| input.name == *name);
    let input = given.next().ok_or_else(|| format!("input {name} is missing"))?;
    if given.next().is_some() {
        return Err(format!("input {name} is given twice"));
    }
    if input.data.dtype() != spec.dtype {
        return Err(format!("input {name} is of {}; expected {}", input.data.dtype().name(), spec.dtype.name()));
    }
    let elements = input.dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
    if elements != Some(input.data.len()) {
        return Err(format!("input {name}: {} elements for a tensor of {:?}", input.data.len(), input.dims));
    }
    let fits = |(dim, wanted): (&usize, &Option<u32>)| wanted.is_none_or(|wanted| *dim == wanted as usize);
    if input.dims.len() != spec.dims.len() || !input.dims.iter().zip(&spec.dims).all(fits) {
        return Err(format!("input {name} is {:?}; expected {:?}", input.dims, spec.dims));
    }
    let bytes = input.data.bytes().len();
    if bytes == 0 || bytes > TENSOR_BYTES_MAX {
        return Err(format!("input {name} has {bytes} bytes; expected 1 to {TENSOR_BYTES_MAX}"));
    }
    Ok(input)
}

/// The rows of a batch: the first dimension that the inputs with a free one share; 1 where none is free.
///
/// # Errors
/// When they do not share it.
pub(super) fn rows(signature: &Signature, inputs: &[&NamedTensor<'_>]) -> Result<usize, String> {
    let mut found = None;
    for (spec, input) in signature.inputs.iter().zip(inputs) {
        if let (Some(None), Some(rows)) = (spec.dims.first(), input.dims.first()) {
            match found {
                None => found = Some(*rows),
                Some(others) if others == *rows => {}
                Some(others) => return Err(format!("input {} has {rows} rows; the others have {others}", spec.name)),
            }
        }
    }
    Ok(found.unwrap_or(1))
}

/// A network's output as it came from the GPU, with the rows that only filled a batch up left out.
///
/// # Errors
/// When the bytes are no such tensor.
pub(super) fn output(
    name: &str,
    mut dims: Vec<usize>,
    mut data: TensorBuffer,
    bytes: &[u8],
    filled: Option<(usize, usize)>,
) -> Result<Tensor, String> {
    let elements: usize = dims.iter().product();
    let mut wanted = elements;
    if let (Some((rows, filled_up)), Some(first)) = (filled, dims.first_mut()) {
        if filled_up == 0 || !first.is_multiple_of(filled_up) {
            return Err(format!("output {name} has {first} rows for a batch of {filled_up}"));
        }
        *first = *first / filled_up * rows;
        wanted = dims.iter().product();
    }
    if !data.extend_from_bytes(bytes) || data.len() != elements {
        return Err(format!("output {name}: {} bytes are not {elements} elements of its type", bytes.len()));
    }
    data.truncate(wanted);
    Ok(Tensor { name: name.to_owned(), dims, data })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensorium_wire::tensor::Dtype;

    use super::*;
    use crate::backend::TensorData;

    fn signature(dims: &[Option<u32>]) -> Signature {
        let spec = |name: &str| TensorSpec { name: name.to_owned(), dtype: Dtype::F32, dims: dims.to_vec() };
        Signature { inputs: vec![spec("a"), spec("b")], outputs: Vec::new() }
    }

    fn tensor<'a>(name: &'a str, dims: &'a [usize], data: &'a [f32]) -> NamedTensor<'a> {
        NamedTensor { name, dims, data: TensorData::F32(data) }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_name() {
        let signature = signature(&[None, Some(2)]);
        let a = tensor("a", &[1, 2], &[1.0, 2.0]);
        let b = tensor("b", &[1, 2], &[3.0, 4.0]);
        let swapped = [b, a];
        let names: Vec<_> = fitting(&signature, &swapped).unwrap().iter().map(|input| input.name).collect();
        assert_eq!(names, ["a", "b"]);
        let data = [0.0; 6];
        for (inputs, part) in [
            (vec![a], "input b is missing"),
            (vec![a, b, a], "input a is given twice"),
            (vec![a, b, tensor("c", &[1], &data[..1])], "no input c"),
            (vec![a, tensor("b", &[1, 3], &data[..3])], "input b is [1, 3]"),
            (vec![a, tensor("b", &[2], &data[..2])], "input b is [2]"),
            (vec![a, tensor("b", &[2, 2], &data)], "6 elements for a tensor of [2, 2]"),
            (vec![a, tensor("b", &[usize::MAX, 2], &data)], "6 elements"),
            (vec![a, tensor("b", &[0, 2], &[])], "has 0 bytes"),
            (vec![a, NamedTensor { data: TensorData::I32(&[1, 2]), ..b }], "of i32; expected f32"),
        ] {
            let error = fitting(&signature, &inputs).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rows_are_shared() {
        let free = signature(&[None, Some(2)]);
        let (one, two) = (tensor("a", &[1, 2], &[0.0; 2]), tensor("b", &[2, 2], &[0.0; 4]));
        assert!(rows(&free, &[&one, &two]).unwrap_err().contains("input b has 2 rows"));
        assert_eq!(rows(&free, &[&two, &two]), Ok(2));
        assert_eq!(rows(&signature(&[Some(2), Some(2)]), &[&two, &two]), Ok(1));
    }

    proptest! {
        #[test]
        fn rows_that_filled_up_are_left_out(rows in 1..5_usize, more in 0..5_usize, per_row in 1..4_usize) {
            let filled_up = rows + more;
            let values: Vec<f32> = (0..u16::try_from(filled_up * per_row).unwrap()).map(f32::from).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let read = |bytes: &[u8]| {
                output("y", vec![filled_up, per_row], TensorBuffer::F32(Vec::new()), bytes, Some((rows, filled_up)))
            };
            let tensor = read(&bytes).unwrap();
            prop_assert_eq!(&tensor.dims, &[rows, per_row]);
            prop_assert_eq!(tensor.f32s().unwrap(), &values[..rows * per_row]);
            prop_assert!(read(&bytes[4..]).is_err());
        }
    }
}
