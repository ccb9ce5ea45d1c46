pub struct Tokenizer; impl Tokenizer{pub fn from_json(_:&[u8])->Result<Self,crate::ProcessingError>{todo!()} pub fn decode(&self,_:&[u32])->String{todo!()}}
