//! `sensorium ca`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use sensorium_transport::pki::Authority;
use sensorium_wire::principal::is_plain_name;
use sensorium_wire::{Principal, Role, Tier};

use crate::arguments::{Ca, CaArguments, IssueArguments};
use crate::error::Outcome;

pub(crate) fn run(arguments: &CaArguments) -> Outcome {
    match &arguments.what {
        Ca::Init { out } => {
            Authority::create(out)?;
            println!("authority in {}: keep ca.key to yourself", out.display());
            println!("a client's bundle: sensorium ca issue --ca {} --name NAME --out DIR", out.display());
        }
        Ca::Issue(issue) => self::issue(issue)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(arguments: &IssueArguments) -> anyhow::Result<()> {
    for (what, text) in [("--name", &arguments.name), ("--tenant", &arguments.tenant)] {
        if !is_plain_name(text) {
            bail!("{what} {text:?}: 1 to 64 letters, digits, dots, dashes or underscores are expected");
        }
    }
    let role = |name: &String| {
        Role::from_name(name).with_context(|| format!("--role {name}: submit, critical, operate or peer is expected"))
    };
    let tier = |name: &String| {
        Tier::from_name(name).with_context(|| format!("--tier {name}: edge, regional or central is expected"))
    };
    let principal = Principal {
        tenant: arguments.tenant.clone(),
        name: arguments.name.clone(),
        roles: arguments.roles.iter().map(role).collect::<Result<_, _>>()?,
        tier: arguments.tier.as_ref().map(tier).transpose()?,
    };
    let bundle = Authority::load(&arguments.ca)?.issue(&principal, &arguments.hosts, arguments.days)?;
    bundle.write(&arguments.out)?;
    println!("{} in {}, valid {} days", principal.to_uri(), arguments.out.display(), arguments.days);
    if principal.has(Role::Peer) {
        println!("on the node: put it in DATA/certificates/node (and remove DATA/certificates/ca), then restart it");
    } else {
        println!("use it: sensorium submit --node ADDR --bundle {} …", arguments.out.display());
    }
    Ok(())
}
