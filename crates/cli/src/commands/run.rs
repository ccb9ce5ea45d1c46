//! `sensorium run`.

mod listing;
mod output;

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use sensorium_client::SessionOptions;
use sensorium_wire::EventBody;

use crate::arguments::RunArguments;
use crate::error::Outcome;
use crate::paths::Paths;
pub(super) use listing::Listing;
use output::Output;
pub(super) use output::json;

pub(crate) fn run(paths: &Paths, arguments: &RunArguments) -> Outcome {
    if !arguments.input.exists() {
        anyhow::bail!("{}: no such file", arguments.input.display());
    }
    let mut output = arguments.out.as_deref().map(Output::create).transpose()?;
    super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let budget_ms = u64::try_from(arguments.budget.as_millis())?;
        let options = SessionOptions { fast: arguments.fast, budget_ms };
        let mut session = client.session(options, &arguments.input).await?;
        let progress = progress(arguments.json);
        let mut listing = Listing::default();
        let mut complete = false;
        while let Some(event) = session.next().await? {
            if let Some(output) = &mut output {
                output.event(&event)?;
            }
            if let EventBody::Opened { duration_ms, .. } = &event.body {
                progress.set_length(*duration_ms);
            }
            progress.set_position(progress.position().max(event.t_ms));
            if arguments.json {
                println!("{}", json(&event));
            } else {
                for line in listing.event(&event) {
                    progress.suspend(|| println!("{line}"));
                }
            }
            if let EventBody::Closed { complete: whole, error, .. } = &event.body {
                complete = *whole;
                if !error.is_empty() {
                    progress.suspend(|| eprintln!("sensorium: {}: {error}", arguments.input.display()));
                }
            }
        }
        progress.finish_and_clear();
        client.close().await;
        if let Some(output) = output {
            output.finish()?;
        }
        if !arguments.json && complete {
            listing.summary().iter().for_each(|line| println!("{line}"));
        }
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}

fn progress(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % of the file, {elapsed} elapsed");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
