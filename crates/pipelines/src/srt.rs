//! Subtitles in the SubRip form: numbered cues with times and text.

use std::fmt::Write as _;

/// Longest line, in characters; what players show without breaking it themselves.
const LINE_CHARACTERS_MAX: usize = 42;

/// One stretch of speech and what was said, in milliseconds of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    pub start_ms: u64,
    pub end_ms: u64,
    pub text: String,
}

/// The captions as a SubRip file, in the order of their start. Captions without text are left out, an end before its
/// start is moved to it, and line breaks in a text become spaces (an empty line would end the cue).
#[must_use]
pub fn write_srt(captions: &[Caption]) -> String {
    let mut ordered: Vec<&Caption> = captions.iter().filter(|caption| !caption.text.trim().is_empty()).collect();
    ordered.sort_by_key(|caption| caption.start_ms);
    let mut out = String::new();
    for (index, caption) in ordered.into_iter().enumerate() {
        let end_ms = caption.end_ms.max(caption.start_ms);
        let (start, end) = (Timestamp(caption.start_ms), Timestamp(end_ms));
        let cue = writeln!(out, "{}\n{start} --> {end}\n{}\n", index + 1, wrap(&caption.text));
        cue.expect("writing to memory cannot fail");
    }
    out
}

struct Timestamp(u64);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ms) = (self.0 / 1000, self.0 % 1000);
        write!(f, "{:02}:{:02}:{:02},{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// Words in lines; an arrow inside a text would read as a line of times.
fn wrap(text: &str) -> String {
    let text = text.replace("-->", "→");
    let mut out = String::with_capacity(text.len());
    let mut line = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > LINE_CHARACTERS_MAX {
            out.push('\n');
            line = 0;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(start_ms: u64, end_ms: u64, text: &str) -> Caption {
        Caption { start_ms, end_ms, text: text.to_owned() }
    }

    #[test]
    fn cues_are_numbered_ordered_and_timed() {
        let captions =
            [caption(3_723_004, 3_724_000, "later"), caption(900, 1_500, " \n "), caption(1_000, 2_500, "first")];
        let expected = "1\n00:00:01,000 --> 00:00:02,500\nfirst\n\n2\n01:02:03,004 --> 01:02:04,000\nlater\n\n";
        assert_eq!(write_srt(&captions), expected);
        assert_eq!(write_srt(&[]), "");
    }

    #[test]
    fn text_cannot_break_the_file() {
        let out = write_srt(&[caption(5, 1, "one\r\n\r\n2\n00:00:09,000 --> 00:00:10,000 two")]);
        assert_eq!(out, "1\n00:00:00,005 --> 00:00:00,005\none 2 00:00:09,000 → 00:00:10,000 two\n\n");
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        let text =
            "and mister john dashwood had then leisure to consider how much there might be prudently in his power";
        let out = write_srt(&[caption(0, 1, text)]);
        let lines: Vec<&str> = out.lines().skip(2).filter(|line| !line.is_empty()).collect();
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= LINE_CHARACTERS_MAX), "{lines:?}");
        assert_eq!(lines.join(" "), text);
    }
}
