//! Errors with what the user can do about them.

use std::process::ExitCode;

/// What a command comes to.
pub(crate) type Outcome = anyhow::Result<ExitCode>;

/// The exit status of a command that worked but whose answer is a refusal or failure.
pub(crate) const NOT_A_RESULT: u8 = 3;

/// An error with its causes in one line, each told once: some errors end with the words of their cause.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for part in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = part;
        } else if !sentence.ends_with(&part) {
            sentence = format!("{sentence}: {part}");
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use anyhow::Context;

    use super::*;

    /// Ends with the words of its cause, which is a file that is not there.
    #[derive(Debug)]
    struct Wrapped(std::io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "configuration: {}", self.0)
        }
    }

    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    fn cause() -> std::io::Error {
        std::io::Error::other("no device cuda:7")
    }

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let error = anyhow::Error::from(Wrapped(cause())).context("starting the node");
        assert_eq!(sentence(&error), "starting the node: configuration: no device cuda:7");
        let plain = Err::<(), _>(cause()).context("reading the plan").unwrap_err();
        assert_eq!(sentence(&plain), "reading the plan: no device cuda:7");
    }
}
