use proptest::prelude::*;

use super::*;

fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    } else {
        bytes.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn header(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}   \n")
}

#[test]
fn every_version_and_way_of_writing_is_read() {
    for version in 1..=3 {
        let bytes = file(version, &header("'<f4'", "False", "(2, 3)"), &[0; 24]);
        let tensor = read(&bytes).unwrap();
        assert_eq!((tensor.dtype, tensor.dims), (Dtype::F32, vec![2, 3]));
        assert_eq!(tensor.data, bytes.len() - 24..bytes.len());
    }
    let other = "{\"shape\":(4,),\"descr\":\"<u1\",\"fortran_order\":True}";
    assert_eq!(read(&file(1, other, &[0; 4])).unwrap().dims, [4]);
    let number = read(&file(1, &header("'<i8'", "False", "()"), &[0; 8])).unwrap();
    assert_eq!((number.dtype, number.dims), (Dtype::I64, vec![]));
    assert_eq!(read(&file(1, &header("'|b1'", "False", "(0, 7)"), &[])).unwrap().dims, [0, 7]);
}

#[test]
fn what_cannot_be_carried_is_named() {
    let error = |descr, fortran, shape, bytes: usize| {
        read(&file(1, &header(descr, fortran, shape), &vec![0; bytes])).unwrap_err()
    };
    assert_eq!(error("'>f4'", "False", "(1,)", 4), NpyError::Dtype(">f4".to_owned()));
    assert_eq!(error("'|O'", "False", "(1,)", 4), NpyError::Dtype("|O".to_owned()));
    assert!(matches!(error("[('a', '<f4')]", "False", "(1,)", 4), NpyError::Header { .. }));
    assert_eq!(error("'<f4'", "True", "(2, 2)", 16), NpyError::FortranOrder);
    assert_eq!(error("'<f4'", "False", "(1, 1, 1, 1, 1, 1, 1)", 4), NpyError::Rank { rank: 7 });
    assert!(matches!(error("'<f4'", "False", "(2, 2)", 15), NpyError::Length { expected: 16, bytes: 15, .. }));
    assert!(matches!(error("'<f4'", "False", "(2, 2)", 17), NpyError::Length { .. }));
    let dims = "(4294967295, 4294967295, 4294967295)";
    assert!(matches!(error("'<f4'", "False", dims, 1), NpyError::Shape(_)));
    assert!(matches!(error("'<f4'", "False", "(4294967296,)", 1), NpyError::Header { .. }));
    assert!(matches!(error("'<f4'", "False", "(-1,)", 1), NpyError::Header { .. }));
    assert!(matches!(error("'<f4'", "0", "(1,)", 4), NpyError::Header { .. }));
    assert_eq!(read(b"\x93NUMP"), Err(NpyError::Magic(b"\x93NUMP".to_vec())));
    assert_eq!(read(b""), Err(NpyError::Magic(vec![])));
    assert_eq!(read(b"\x93NUMPY\x04\x00\x00\x00"), Err(NpyError::Version(4)));
    assert_eq!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), Err(NpyError::HeaderTooLong { bytes: 0xffff_ffff }));
    let twice = "{'shape': (), 'shape': ()}";
    assert!(read(&file(1, twice, &[])).unwrap_err().to_string().contains("comes twice"));
    let none = "{'shape': (1,)}";
    assert!(read(&file(1, none, &[])).unwrap_err().to_string().contains("\"descr\" is missing"));
    assert!(write(Dtype::F32, &[2], &[0; 7]).is_err());
    assert!(write(Dtype::F32, &[1; 7], &[0; 4]).is_err());
}

#[test]
fn a_written_file_is_what_numpy_writes() {
    let bytes = write(Dtype::F32, &[3], &[7; 12]).unwrap();
    assert!(
        bytes.starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }   ")
    );
    assert_eq!((bytes.len(), bytes[127]), (140, b'\n'));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        dtype in proptest::sample::select(Dtype::ALL.to_vec()),
        dims in proptest::collection::vec(0_u32..4, 0..=limits::RANK_MAX),
        fill in any::<u8>(),
    ) {
        let length = usize::try_from(tensor_bytes(dtype, &dims).unwrap()).unwrap();
        let data = vec![fill; length];
        let bytes = write(dtype, &dims, &data).unwrap();
        let tensor = read(&bytes).unwrap();
        prop_assert_eq!(&bytes[tensor.data.clone()], &data);
        prop_assert_eq!((tensor.dtype, &tensor.dims), (dtype, &dims));
        prop_assert!(tensor.data.start.is_multiple_of(64));
        for end in 0..bytes.len() {
            prop_assert!(read(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn damaged_headers_never_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = write(Dtype::I16, &[2, 2], &[0; 8]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(tensor) = read(&bytes) {
            prop_assert_eq!(Some(tensor.data.len() as u64), tensor_bytes(tensor.dtype, &tensor.dims));
        }
    }
}
