//! `sensorium submit`.

use std::process::ExitCode;

use sensorium_wire::BodyKind;

use crate::arguments::SubmitArguments;
use crate::error::{NOT_A_RESULT, Outcome};
use crate::paths::Paths;
use crate::{payload, show};

pub(crate) fn run(paths: &Paths, arguments: &SubmitArguments) -> Outcome {
    let file = payload::read(&arguments.model, &arguments.file)?;
    super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let deadline_us = u64::try_from(arguments.deadline.as_micros())?;
        let job = file.job.deadline_us(deadline_us).urgency(arguments.urgency.into());
        let job = job.fresh_within_ms(arguments.fresh_within);
        let answer = client.submit(job, file.payload).await?;
        client.close().await;
        if arguments.json {
            println!("{}", show::answer(&answer)?);
        } else if let Some(rejection) = answer.rejection() {
            eprintln!("sensorium: {}: {rejection}", answer.header.outcome.name());
        } else {
            match answer.header.body {
                BodyKind::Result => show::result_lines(&answer.result()?).iter().for_each(|line| println!("{line}")),
                BodyKind::Text => println!("{}", String::from_utf8_lossy(&answer.payload)),
                BodyKind::Tensor | BodyKind::Empty => {
                    println!(
                        "{} {:?}, {} bytes",
                        answer.header.dtype.name(),
                        answer.header.dims(),
                        answer.payload.len()
                    );
                }
            }
            println!("{}", show::receipt_line(&answer));
        }
        Ok(if answer.is_result() { ExitCode::SUCCESS } else { ExitCode::from(NOT_A_RESULT) })
    })?
}
