//! The rules that the compiler does not check: who may use whom, where unsafe code and printing are, what pure crates
//! must not touch, and that the documentation lists what the code has.
//!
//! Reads sources and manifests only; nothing is built or run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every crate and the crates of this workspace that it may use. A crate may use only those above it.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("wire", &[]),
    ("hardware", &["wire"]),
    ("models", &["wire"]),
    ("scheduler", &["wire"]),
    ("cluster", &["wire"]),
    ("simulator", &["wire", "scheduler"]),
    ("processing", &["wire", "models"]),
    ("device", &["wire", "models", "processing"]),
    ("pipelines", &["wire"]),
    ("transport", &["wire"]),
    ("client", &["wire", "transport"]),
    ("node", &["wire", "hardware", "models", "scheduler", "cluster", "processing", "device", "pipelines", "transport"]),
    (
        "cli",
        &[
            "wire",
            "hardware",
            "models",
            "scheduler",
            "cluster",
            "simulator",
            "processing",
            "device",
            "pipelines",
            "transport",
            "client",
            "node",
        ],
    ),
];

/// Files that may hold unsafe code.
const UNSAFE_FILES: [&str; 18] = [
    "crates/device/src/backend/cuda.rs",
    "crates/device/src/backend/cuda/driver.rs",
    "crates/device/src/backend/cuda/images.rs",
    "crates/device/src/backend/cuda/images/down.rs",
    "crates/device/src/backend/cuda/images/up.rs",
    "crates/device/src/backend/cuda/measure.rs",
    "crates/device/src/backend/cuda/network.rs",
    "crates/device/src/backend/cuda/network/shape.rs",
    "crates/device/src/backend/placement.rs",
    "crates/device/src/cuda/compile/nvrtc.rs",
    "crates/device/src/cuda/launch.rs",
    "crates/device/src/cuda/partition.rs",
    "crates/device/src/group/nccl.rs",
    "crates/device/src/leave.rs",
    "crates/device/src/slab/memory.rs",
    "crates/device/src/worker/descriptors.rs",
    "crates/device/src/worker/lane/batch.rs",
    "crates/device/src/worker/memory_policy.rs",
];

/// Crates that decide without touching the world, and what they must not mention.
const PURE_CRATES: [&str; 6] = ["wire", "scheduler", "cluster", "simulator", "processing", "pipelines"];
const IMPURE: [&str; 8] =
    ["std::net", "std::fs", "std::thread", "std::process", "std::env", "Instant::now", "SystemTime", "tokio::"];

const PRINTING: [&str; 4] = ["println!", "print!", "eprintln!", "eprint!"];

/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path as the lists above write it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn manifest(folder: &Path) -> toml::Table {
    let path = folder.join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Rust files below a folder, in a fixed order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("the folder was just opened").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn crate_names() -> BTreeSet<String> {
    let folder = root().join("crates");
    let entries = fs::read_dir(&folder).expect("the workspace has crates");
    let folders = entries.map(|entry| entry.expect("the folder was just opened").path());
    let names = folders.filter(|path| path.is_dir()).filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    names.collect()
}

/// The workspace's crates that a manifest names in any of its tables of dependencies.
fn used(manifest: &toml::Table) -> BTreeSet<String> {
    let mut tables: Vec<&toml::Table> = vec![manifest];
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    tables.extend(targets.into_iter().flat_map(|targets| targets.values().filter_map(toml::Value::as_table)));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let dependencies = tables.iter().flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    let packages = dependencies.flat_map(|table| {
        table.iter().map(|(key, value)| value.get("package").and_then(toml::Value::as_str).unwrap_or(key))
    });
    packages.filter_map(|package| Some(package.strip_prefix("sensorium-")?.to_owned())).collect()
}

/// The lines of a source file that are neither comments nor compiled for tests only, with their numbers.
///
/// Leans on rustfmt: the item under `#[cfg(test)]` ends with a brace at its own indentation, or on its own line.
fn product_lines(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let indentation = &line[..line.len() - line.trim_start().len()];
            let end = format!("{indentation}}}");
            let mut item = lines.by_ref().map(|(_, line)| line).skip_while(|line| line.trim().starts_with("#["));
            let first = item.next().unwrap_or_default();
            if !first.trim_end().ends_with([';', '}']) {
                let _ = item.find(|line| *line == end);
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((number, line));
        }
    }
    kept
}

/// The files of a crate that are part of the product: not those of modules that only tests have.
fn product_files(name: &str) -> Vec<PathBuf> {
    let files = rust_files(&root().join("crates").join(name).join("src"));
    let test_modules: Vec<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    let of_tests = |file: &PathBuf| {
        test_modules.iter().any(|module| file.with_extension("") == *module || file.starts_with(module))
    };
    files.into_iter().filter(|file| !of_tests(file)).collect()
}

/// The modules that a file declares under `#[cfg(test)]` and that lie in files of their own, without extension.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folder = if matches!(stem, "lib" | "main" | "mod") { file.with_file_name("") } else { file.with_extension("") };
    let text = read(file);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let name = pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')?;
        Some(folder.join(name))
    });
    declared.collect()
}

/// Whether `word` stands in `line` on its own: `print!` is not in `eprint!`.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

#[test]
fn crates_use_only_what_they_may() {
    let may_use: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let listed: BTreeSet<String> = may_use.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(crate_names(), listed, "crates/ and MAY_USE name different crates");
    for (at, (name, allowed)) in MAY_USE.iter().enumerate() {
        for other in *allowed {
            assert!(
                MAY_USE[..at].iter().any(|(above, _)| above == other),
                "{name} may use {other}, which is not above it"
            );
        }
        let manifest = manifest(&root().join("crates").join(name));
        assert_eq!(manifest["package"]["name"].as_str(), Some(format!("sensorium-{name}").as_str()));
        for other in used(&manifest) {
            assert!(allowed.contains(&other.as_str()), "crates/{name}/Cargo.toml uses {other}; it may use {allowed:?}");
        }
    }
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let folders = crate_names().into_iter().map(|name| root().join("crates").join(name));
    for folder in folders.chain([root().to_owned()]) {
        let lints = manifest(&folder).get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
        assert_eq!(lints, Some(true), "{}/Cargo.toml needs [lints] workspace = true", folder.display());
    }
}

#[test]
fn unsafe_code_is_where_it_is_listed() {
    let files = rust_files(&root().join("crates"));
    assert!(files.len() > 100, "only {} files found", files.len());
    let lifted = |file: &PathBuf| {
        let text = read(file);
        text.lines().any(|line| line.trim_start().starts_with("#") && line.contains("unsafe_code"))
    };
    let found: BTreeSet<String> = files.iter().filter(|file| lifted(file)).map(|file| shown(file)).collect();
    let listed: BTreeSet<String> = UNSAFE_FILES.map(str::to_owned).into();
    assert_eq!(found, listed, "left: files that lift the lint unsafe_code; right: those that may");
    let elsewhere = rust_files(&root().join("tests")).into_iter().chain(rust_files(&root().join("benches")));
    for file in elsewhere.filter(|file| !file.ends_with("architecture.rs")) {
        assert!(!lifted(&file), "{} lifts the lint unsafe_code", shown(&file));
    }
}

#[test]
fn pure_crates_have_no_clock_no_files_and_no_threads() {
    let mut wrong = Vec::new();
    for name in PURE_CRATES {
        let files = product_files(name);
        assert!(files.len() > 3, "{name}: only {} files found", files.len());
        for file in files {
            let text = read(&file);
            for (number, line) in product_lines(&text) {
                for word in IMPURE.into_iter().chain(["std::{"]).filter(|word| line.contains(word)) {
                    wrong.push(format!("{}:{number}: {word}", shown(&file)));
                }
            }
        }
    }
    // `std::{` would hide what comes after it; these crates write one `use` for each module.
    assert!(wrong.is_empty(), "pure crates mention what they must not:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints() {
    let mut wrong = Vec::new();
    for name in crate_names().into_iter().filter(|name| name != "cli") {
        for file in product_files(&name) {
            let text = read(&file);
            for (number, line) in product_lines(&text) {
                for word in PRINTING.into_iter().filter(|word| mentions(line, word)) {
                    wrong.push(format!("{}:{number}: {word}", shown(&file)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "only crates/cli may print:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let names = crate_names();
    let files = names.iter().flat_map(|name| rust_files(&root().join("crates").join(name).join("src")));
    let lines = files.map(|file| (read(&file).lines().count(), shown(&file)));
    let long: Vec<_> = lines.filter(|(lines, _)| *lines > FILE_LINES_MAX).collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines: {long:?}");
}

/// The rows of the restart table in the source, as `docs/architecture.md` is to show them.
fn restart_rows() -> Vec<String> {
    let text = read(&root().join("crates/node/src/restart.rs"));
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix("row(Part::")?.strip_suffix("),"));
    let number = |text: &str| -> u64 {
        text.replace('_', "").parse().unwrap_or_else(|error| panic!("{text:?} in restart.rs: {error}"))
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.splitn(5, ',').map(str::trim).collect();
        let [part, restarts, window_ms, backoff_ms, then] = cells[..] else { panic!("a row of {cells:?}") };
        let then = match then {
            "Then::GiveUp" => "give it up".to_owned(),
            "Then::StopNode" => "stop the node".to_owned(),
            pause => {
                let ms = pause.trim_start_matches("Then::Pause { pause_ms: ").trim_end_matches(" }");
                format!("pause for {} s", number(ms) / 1000)
            }
        };
        let (restarts, window_s, backoff_ms) = (number(restarts), number(window_ms) / 1000, number(backoff_ms));
        format!("| `{part}` | {restarts} in {window_s} s | {backoff_ms} ms | {then} |")
    })
    .collect()
}

#[test]
fn the_documentation_has_the_restart_table() {
    let rows = restart_rows();
    let source = read(&root().join("crates/node/src/restart.rs"));
    assert!(source.contains(&format!("TABLE: [RestartPolicy; {}]", rows.len())), "rows not found: {rows:?}");
    let page = read(&root().join("docs/architecture.md"));
    for row in rows {
        assert!(page.contains(&row), "docs/architecture.md lacks: {row}");
    }
}

#[test]
fn the_documentation_has_every_option_of_a_node() {
    let source = read(&root().join("crates/node/src/config.rs"));
    let options = source.split_once("pub struct NodeConfig {").expect("the configuration is there").1;
    let options = options.split_once("\n}").expect("it ends").0;
    let names = options.lines().filter_map(|line| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0));
    let page = read(&root().join("docs/configuration.md"));
    let mut count = 0;
    for name in names {
        count += 1;
        assert!(page.contains(&format!("`{name}`")), "docs/configuration.md lacks the option {name}");
    }
    assert!(count >= 10, "only {count} options found");
}

#[test]
fn the_documentation_has_every_key_of_a_scenario() {
    let source = read(&root().join("crates/simulator/src/scenario/raw.rs"));
    let keys = source.lines().filter_map(|line| Some(line.trim().strip_prefix("pub(super) ")?.split_once(':')?.0));
    let page = read(&root().join("docs/simulator.md"));
    let mut count = 0;
    for key in keys {
        count += 1;
        let shown = [format!("`{key}`"), format!("[[{key}]]"), format!("{key} = ")];
        assert!(shown.iter().any(|shown| page.contains(shown)), "docs/simulator.md lacks the key {key}");
    }
    assert!(count >= 40, "only {count} keys found");
}

#[test]
fn the_documentation_has_every_key_of_a_topology() {
    let source = read(&root().join("crates/cluster/src/topology.rs"));
    let keys = source.lines().filter_map(|line| Some(line.strip_prefix("    pub ")?.split_once(':')?.0));
    let keys = keys.filter(|key| !key.contains('(') && !["nodes", "sources"].contains(key));
    let page = read(&root().join("docs/cluster.md"));
    let mut count = 0;
    for key in keys {
        count += 1;
        let shown = [format!("`{key}`"), format!("`[{key}]`"), format!("`[node.{key}]`")];
        assert!(shown.iter().any(|shown| page.contains(shown)), "docs/cluster.md lacks the key {key}");
    }
    assert!(count >= 15, "only {count} keys found");
}

#[test]
fn the_documentation_has_every_field_that_rules_may_name() {
    let source = read(&root().join("crates/pipelines/src/rules/schema.rs"));
    let fields = source.lines().filter_map(|line| {
        let (object, rest) = line.trim().strip_prefix('(')?.split_once(", \"")?;
        let (name, rest) = rest.split_once("\", F::")?;
        rest.ends_with("),").then_some((object, name))
    });
    let page = read(&root().join("docs/edge.md"));
    let mut count = 0;
    for (object, name) in fields {
        count += 1;
        let object = object.to_lowercase();
        let shown = [format!("`{object}.{name}`"), format!("`.{name}`"), format!("`{name}`")];
        assert!(shown.iter().any(|shown| page.contains(shown)), "docs/edge.md lacks {object}.{name}");
    }
    assert!(count >= 40, "only {count} fields found");
}

#[test]
fn the_documentation_has_every_limit_of_the_protocol() {
    let source = read(&root().join("crates/wire/src/limits.rs"));
    let names = source.lines().filter_map(|line| Some(line.strip_prefix("pub const ")?.split_once(':')?.0));
    let page = read(&root().join("docs/wire.md"));
    let mut count = 0;
    for name in names {
        count += 1;
        assert!(page.contains(&format!("`{name}`")), "docs/wire.md lacks the limit {name}");
    }
    assert!(count >= 10, "only {count} limits found");
}

/// The rules above look at text; this holds the looking itself.
#[test]
fn test_code_and_comments_are_left_out() {
    let text = "// std::fs\nuse a;\n#[cfg(test)]\nmod b;\nfn c() {\n    d\n}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn e() {\n    }\n}\nfn f() {}\n";
    let lines: Vec<&str> = product_lines(text).into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["use a;", "fn c() {", "    d", "}", "", "fn f() {}"]);
    assert!(mentions("    print!(\"x\")", "print!") && !mentions("eprint!(\"x\")", "print!"));
}
