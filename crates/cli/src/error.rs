//! Errors with what the user can do about them.

use std::process::ExitCode;

/// What a command comes to.
pub(crate) type Outcome = anyhow::Result<ExitCode>;

/// The exit status of a command that worked but whose answer is a refusal or failure.
pub(crate) const NOT_A_RESULT: u8 = 3;
