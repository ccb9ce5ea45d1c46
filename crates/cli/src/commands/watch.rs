//! `sensorium watch`.

use std::process::ExitCode;

use super::run::{Listing, json};
use crate::arguments::WatchArguments;
use crate::error::Outcome;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &WatchArguments) -> Outcome {
    super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let mut watch = client.watch(&arguments.source)?;
        let mut listing = Listing::default();
        let mut events = 0;
        while arguments.events.is_none_or(|events_max| events < events_max) {
            let event = watch.next().await?;
            events += 1;
            if arguments.json {
                println!("{}", json(&event));
            } else {
                listing.event(&event).iter().for_each(|line| println!("{line}"));
            }
        }
        drop(watch);
        client.close().await;
        Ok(ExitCode::SUCCESS)
    })?
}
