//! The header of a `.npy` file: a Python dictionary of `descr`, `fortran_order` and `shape`.

use sensorium_wire::limits;
use sensorium_wire::tensor::Dtype;

use super::NpyError;

/// Reads dtype and shape.
pub(super) fn parse(text: &[u8]) -> Result<(Dtype, Vec<u32>), NpyError> {
    let mut scanner = Scanner { text, at: 0 };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    scanner.expect(b'{')?;
    while !scanner.take(b'}') {
        let at = scanner.at;
        let key = scanner.string()?;
        scanner.expect(b':')?;
        let again = match key {
            "descr" => descr.replace(scanner.string()?).is_some(),
            "fortran_order" => fortran.replace(scanner.boolean()?).is_some(),
            "shape" => shape.replace(scanner.shape()?).is_some(),
            other => return Err(NpyError::Header { at, problem: format!("key {other:?} is not known") }),
        };
        if again {
            return Err(NpyError::Header { at, problem: format!("key {key:?} comes twice") });
        }
        if !scanner.take(b',') {
            scanner.expect(b'}')?;
            break;
        }
    }
    scanner.end()?;
    let missing = |key: &str| NpyError::Header { at: text.len(), problem: format!("key {key:?} is missing") };
    let descr = descr.ok_or_else(|| missing("descr"))?;
    let fortran = fortran.ok_or_else(|| missing("fortran_order"))?;
    let dims = shape.ok_or_else(|| missing("shape"))?;
    let dtype = Dtype::ALL.into_iter().find(|dtype| name(*dtype) == descr);
    // NumPy writes "<" or "=" or "|" for single bytes, where all are the same.
    let single = || Dtype::ALL.into_iter().find(|dtype| dtype.bytes() == 1 && name(*dtype).get(1..) == descr.get(1..));
    let dtype = dtype.or_else(single).ok_or_else(|| NpyError::Dtype(descr.to_owned()))?;
    // With one dimension the two orders are the same.
    if fortran && dims.len() > 1 {
        return Err(NpyError::FortranOrder);
    }
    Ok((dtype, dims))
}

/// The dictionary without padding.
pub(super) fn write(dtype: Dtype, dims: &[u32]) -> String {
    let shape = match dims {
        [] => "()".to_owned(),
        [dim] => format!("({dim},)"),
        dims => format!("({})", dims.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", name(dtype))
}

/// NumPy's name of a type.
const fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::U8 => "|u1",
        Dtype::I8 => "|i1",
        Dtype::I16 => "<i2",
        Dtype::I32 => "<i4",
        Dtype::I64 => "<i8",
        Dtype::F16 => "<f2",
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::Bool => "|b1",
    }
}

/// Reads the few forms of Python literals that occur.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn error<T>(&self, expected: &str) -> Result<T, NpyError> {
        let found = match self.text.get(self.at) {
            Some(byte) => format!("{:?}", char::from(*byte)),
            None => "the end".to_owned(),
        };
        Err(NpyError::Header { at: self.at, problem: format!("{expected} is expected, {found} was found") })
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), NpyError> {
        if self.take(byte) { Ok(()) } else { self.error(&format!("{:?}", char::from(byte))) }
    }

    fn end(&mut self) -> Result<(), NpyError> {
        if self.peek().is_none() { Ok(()) } else { self.error("the end") }
    }

    /// A string in either kind of quotation marks; none of those that occur has an escape.
    fn string(&mut self) -> Result<&'a str, NpyError> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else {
            return self.error("a string");
        };
        let start = self.at + 1;
        let length = self.text[start..].iter().position(|byte| *byte == quote || *byte == b'\\');
        let text = length.and_then(|length| std::str::from_utf8(&self.text[start..start + length]).ok());
        match text {
            Some(text) if self.text[start + text.len()] == quote => {
                self.at = start + text.len() + 1;
                Ok(text)
            }
            _ => self.error("a plain string"),
        }
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.error("True or False")
    }

    fn shape(&mut self) -> Result<Vec<u32>, NpyError> {
        self.expect(b'(')?;
        let mut dims = Vec::new();
        while !self.take(b')') {
            dims.push(self.number()?);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        if dims.len() > limits::RANK_MAX { Err(NpyError::Rank { rank: dims.len() }) } else { Ok(dims) }
    }

    fn number(&mut self) -> Result<u32, NpyError> {
        self.peek();
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.text[self.at..self.at + digits]).unwrap_or_default();
        match text.parse() {
            Ok(number) => {
                self.at += digits;
                Ok(number)
            }
            Err(_) => self.error("a dimension from 0 to 4294967295"),
        }
    }
}
