//! The `sensorium` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    sensorium_cli::main()
}
