pub struct T{pub dtype: sensorium_wire::Dtype,pub dims:Vec<u32>,pub data:std::ops::Range<usize>} pub fn read(_:&[u8])->Result<T,crate::ProcessingError>{todo!()}
