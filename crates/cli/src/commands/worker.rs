//! `sensorium worker`: runs one device for the node that started it.

use crate::arguments::WorkerArguments;
use crate::error;

pub(crate) fn run(arguments: &WorkerArguments) -> ! {
    let outcome = sensorium_device::worker::run(arguments.parent);
    let status = u8::from(outcome.is_err());
    if let Err(reason) = outcome {
        eprintln!("sensorium: {}", error::sentence(&reason.into()));
    }
    sensorium_device::leave(status)
}
