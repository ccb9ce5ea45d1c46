//! Token numbers to text.
//!
//! Reads the Hugging Face JSON form of a byte-pair tokenizer, and of it only what decoding needs: the vocabulary and the
//! special tokens. It cannot encode, and it ignores normalisers and merges.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

/// Longest tokenizer file, in bytes.
pub const TOKENIZER_BYTES_MAX: usize = 16 << 20;
/// Most tokens; numbers are below this.
pub const TOKENS_MAX: u32 = 1 << 19;
/// Longest text of one token, in bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 10;

/// What is wrong with a tokenizer file.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error("a tokenizer of {bytes} bytes; at most {max} are taken", max = TOKENIZER_BYTES_MAX)]
    TooLarge { bytes: usize },
    #[error("the tokenizer is not JSON with model.vocab (text to number) and added_tokens: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the tokenizer's model is {0}; BPE is supported")]
    Model(String),
    #[error("token {piece:?} has number {token}; numbers are below {max}", max = TOKENS_MAX)]
    Number { piece: String, token: u32 },
    #[error("token {token} has a text of {bytes} bytes; at most {max} are taken", max = PIECE_BYTES_MAX)]
    PieceTooLong { token: u32, bytes: usize },
    #[error("token {token} has two texts, {first:?} and {second:?}")]
    Twice { token: u32, first: String, second: String },
    #[error("the vocabulary is empty")]
    Empty,
}

/// A vocabulary, for decoding.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// By number; `None` where there is no token.
    pieces: Vec<Option<Piece>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A part of a character that has no token of its own.
    Byte(u8),
    /// Start, end and the like: no text.
    Special,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    r#type: Option<String>,
    vocab: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`], when it is too large, not of this form, or contradicts itself.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.len() > TOKENIZER_BYTES_MAX {
            return Err(TokenizerError::TooLarge { bytes: bytes.len() });
        }
        let file: File = serde_json::from_slice(bytes)?;
        if let Some(model) = file.model.r#type.filter(|model| model != "BPE") {
            return Err(TokenizerError::Model(model));
        }
        let mut texts: Vec<Option<String>> = Vec::new();
        let added = file.added_tokens.iter().map(|token| (token.content.clone(), token.id));
        for (text, token) in file.model.vocab.into_iter().chain(added) {
            insert(&mut texts, text, token)?;
        }
        let mut pieces: Vec<Option<Piece>> = texts.into_iter().map(|text| text.map(Piece::of)).collect();
        for token in file.added_tokens.iter().filter(|token| token.special) {
            pieces[token.id as usize] = Some(Piece::Special);
        }
        if pieces.is_empty() { Err(TokenizerError::Empty) } else { Ok(Self { pieces }) }
    }

    /// The text of tokens, without white space around it. Special tokens and numbers without a token give no text;
    /// bytes that make no character give U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in tokens {
            match self.pieces.get(*token as usize) {
                Some(Some(Piece::Text(text))) => bytes.extend_from_slice(text.as_bytes()),
                Some(Some(Piece::Byte(byte))) => bytes.push(*byte),
                Some(Some(Piece::Special) | None) | None => {}
            }
        }
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// A token may be named twice (in the vocabulary and as an added one), but only with one text.
fn insert(texts: &mut Vec<Option<String>>, text: String, token: u32) -> Result<(), TokenizerError> {
    if token >= TOKENS_MAX {
        return Err(TokenizerError::Number { piece: text.chars().take(64).collect(), token });
    }
    if text.len() > PIECE_BYTES_MAX {
        return Err(TokenizerError::PieceTooLong { token, bytes: text.len() });
    }
    let index = token as usize;
    if texts.len() <= index {
        texts.resize(index + 1, None);
    }
    match &texts[index] {
        Some(first) if *first != text => Err(TokenizerError::Twice { token, first: first.clone(), second: text }),
        _ => {
            texts[index] = Some(text);
            Ok(())
        }
    }
}

impl Piece {
    fn of(text: String) -> Self {
        match byte(&text) {
            Some(byte) => Self::Byte(byte),
            // The mark for a space before a word.
            None => Self::Text(text.replace('\u{2581}', " ")),
        }
    }
}

/// The byte of a piece `<0xNN>`.
fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if hexadecimal { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: &str = r#"{
        "version": "1.0",
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true},
            {"id": 2, "content": "</s>", "special": true},
            {"id": 9, "content": "[laughs]", "special": false}
        ],
        "model": {"type": "BPE", "vocab":
            {"<unk>": 0, "</s>": 2, "▁so": 3, "nne": 4, "<0xC3>": 5, "<0xA9>": 6, "▁": 7, "<0xZZ>": 8}, "merges": ["a b"]}
    }"#;

    #[test]
    fn marks_become_spaces_and_bytes_characters() {
        let tokenizer = Tokenizer::from_json(SMALL.as_bytes()).unwrap();
        assert_eq!(tokenizer.decode(&[0, 7, 3, 4, 3, 5, 6, 9, 2]), "sonne soé[laughs]");
        // Not hexadecimal: a text like any other.
        assert_eq!(tokenizer.decode(&[8]), "<0xZZ>");
        // Half a character, a hole and a number beyond the vocabulary.
        assert_eq!(tokenizer.decode(&[3, 5, 1, u32::MAX]), "so\u{fffd}");
        assert_eq!(tokenizer.decode(&[]), "");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |json: &str| Tokenizer::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error("").contains("not JSON"));
        assert!(error(r#"{"model": {}}"#).contains("vocab"));
        assert!(error(r#"{"model": {"type": "Unigram", "vocab": {}}}"#).contains("Unigram"));
        assert!(error(r#"{"model": {"vocab": {}}}"#).contains("empty"));
        assert!(error(r#"{"model": {"vocab": {"a": 524288}}}"#).contains("below 524288"));
        assert!(error(r#"{"model": {"vocab": {"a": 1, "b": 1}}}"#).contains("two texts"));
        assert!(error(r#"{"model": {"vocab": {"a": -1}}}"#).contains("-1"));
        let long = format!(r#"{{"model": {{"vocab": {{"{}": 1}}}}}}"#, "a".repeat(PIECE_BYTES_MAX + 1));
        assert!(error(&long).contains("1025 bytes"));
        assert!(Tokenizer::from_json(&vec![b' '; TOKENIZER_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tokenizer::from_json(&bytes);
        }

        #[test]
        fn damaged_files_never_panic(
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
            tokens in proptest::collection::vec(any::<u32>(), 0..20),
        ) {
            let mut bytes = SMALL.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(tokenizer) = Tokenizer::from_json(&bytes) {
                let _ = tokenizer.decode(&tokens);
            }
        }
    }
}
