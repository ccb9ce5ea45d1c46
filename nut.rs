#[derive(Default)] pub struct Demuxer; pub enum Item{ A } #[derive(Debug,thiserror::Error)] #[error("x")] pub struct E;
impl Demuxer { pub fn push(&mut self,_:&[u8]){} pub fn next(&mut self)->Result<Option<Item>,E>{Ok(None)} }
