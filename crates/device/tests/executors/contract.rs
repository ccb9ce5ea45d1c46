//! What every backend must do, whatever it runs on.

use std::fs;

use sensorium_device::backend::{Backend, BackendError, LoadOptions, NamedTensor, TensorBuffer, TensorData};
use sensorium_wire::tensor::Dtype;

use crate::onnx::network;

const FLOAT: u8 = 1;
const STRING: u8 = 8;

/// The contract that has nothing to do with a particular model.
pub(crate) fn contract(backend: &dyn Backend, options: &LoadOptions<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        file
    };
    let weights: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();

    // A good network, with weights inside and beside it.
    for (name, location) in [("good.onnx", None), ("beside.onnx", Some("weights.bin"))] {
        write("weights.bin", &weights);
        let mut network = backend.load(&write(name, &network("Add", "", location, FLOAT)), options).unwrap();
        let signature = network.signature().clone();
        assert_eq!((signature.inputs.len(), signature.inputs[0].name.as_str()), (1, "x"));
        assert_eq!((signature.inputs[0].dtype, &signature.inputs[0].dims[..]), (Dtype::F32, &[Some(2)][..]));
        let input = |dims, data| NamedTensor { name: "x", dims, data: TensorData::F32(data) };
        let outputs = network.run(&[input(&[2], &[10.0, 20.0])], &["y"]).unwrap();
        assert_eq!((outputs[0].name.as_str(), &outputs[0].dims[..]), ("y", &[2][..]));
        assert_eq!(outputs[0].data, TensorBuffer::F32(vec![11.0, 22.0]));

        // What does not fit is an error, and the network stays usable.
        let long = [0.0; 3];
        for (inputs, wanted, part) in [
            (vec![input(&[3], &long)], "y", "x"),
            (vec![input(&[2], &long)], "y", "3 elements for a tensor of [2]"),
            (vec![input(&[usize::MAX, 2], &long)], "y", "3 elements"),
            (vec![], "y", ""),
            (vec![NamedTensor { name: "x", dims: &[2], data: TensorData::I64(&[1, 2]) }], "y", ""),
            (vec![input(&[2], &[1.0, 2.0])], "z", "there is no output z"),
        ] {
            let error = network.run(&inputs, &[wanted]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(name), "{error}");
        }
        assert!(network.run(&[input(&[2], &[0.0, 0.0])], &["y"]).is_ok());
    }

    // What cannot be loaded is an error with the file's name.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("weights.bin"), &weights).unwrap();
    let outside = outside.path().join("weights.bin");
    write("weights.bin", &weights);
    let cut = network("Add", "", None, FLOAT);
    for (name, bytes) in [
        ("empty.onnx", vec![]),
        ("noise.onnx", (0..=255).cycle().take(10_000).collect()),
        ("cut.onnx", cut[..cut.len() / 2].to_vec()),
        ("inner/above.onnx", network("Add", "", Some("../weights.bin"), FLOAT)),
        ("absolute.onnx", network("Add", "", Some(outside.to_str().unwrap()), FLOAT)),
        ("operator.onnx", network("Add", "acme.custom", None, FLOAT)),
        ("unknown.onnx", network("Frobnicate", "", None, FLOAT)),
        ("strings.onnx", network("Add", "", None, STRING)),
    ] {
        let error = backend.load(&write(name, &bytes), options).err().unwrap_or_else(|| panic!("{name} was loaded"));
        assert!(matches!(&error, BackendError::Load { file, .. } if file.ends_with(name)), "{error}");
    }
    assert!(matches!(backend.load(&folder.path().join("none.onnx"), options), Err(BackendError::Load { .. })));
}
