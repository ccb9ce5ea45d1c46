//! Every kernel compiles for an H100, and what does not compile says why in one line.

use std::fs;

use sensorium_device::cuda::arguments::LAYOUTS;
use sensorium_device::cuda::compile::{Arch, CompileError, Nvrtc, NvrtcSearch, SOURCE_BYTES_MAX};
use sensorium_device::cuda::kernels::{LOG_MEL, PREPARE, SOURCES, Source};

use crate::setup;

/// The compiler that `ops/setup` fetched.
pub(crate) fn nvrtc() -> Nvrtc {
    setup::cached("cuda/lib/libnvrtc.so.13");
    Nvrtc::open(&NvrtcSearch { named: None, cache: Some(setup::cache()) }).unwrap()
}

/// A source that is not part of the product; tests are few and short-lived.
pub(crate) fn source(text: &str) -> Source {
    Source { name: "made-up.cu", text: Box::leak(text.to_owned().into_boxed_str()), options: &[], entries: &["entry"] }
}

#[test]
fn every_kernel_compiles_to_machine_code() {
    let nvrtc = nvrtc();
    assert_eq!((nvrtc.version().major, nvrtc.version().minor), (13, 0));
    assert!(nvrtc.library().ends_with("cuda/lib/libnvrtc.so.13"), "{nvrtc:?}");
    // H100 and H200, and the generations before and after that the runtime has code for.
    for (major, minor) in [(9, 0), (8, 0), (12, 0)] {
        for source in SOURCES {
            let cubin = nvrtc.compile(&source, Arch { major, minor }).unwrap();
            assert_eq!(&cubin[..4], b"\x7fELF");
            // ELF's machine number of CUDA.
            assert_eq!(u16::from_le_bytes([cubin[18], cubin[19]]), 190);
            for entry in source.entries {
                let section = format!(".text.{entry}\0");
                let found = cubin.windows(section.len()).any(|bytes| bytes == section.as_bytes());
                assert!(found, "{} for sm_{major}{minor} lacks {section}", source.name);
            }
        }
    }
}

#[test]
fn kernels_have_nothing_unused() {
    let nvrtc = nvrtc();
    // 177: never used; 550: set but never used; 186: a comparison that is always so.
    for source in SOURCES {
        let options: Vec<_> = source
            .options
            .iter()
            .copied()
            .chain(["--diag-error=177", "--diag-error=550", "--diag-error=186"])
            .collect();
        let strict = Source { options: Box::leak(options.into_boxed_slice()), ..source };
        nvrtc.compile(&strict, Arch::HOPPER).unwrap();
    }
}

#[test]
fn structures_lie_alike_on_both_sides() {
    let assertions: String = LAYOUTS.iter().map(|layout| layout.assertions()).collect();
    assert!(assertions.matches("static_assert").count() > 60, "{assertions}");
    let text = format!("{}\n{assertions}", PREPARE.text);
    nvrtc().compile(&Source { text: source(&text).text, ..PREPARE }, Arch::HOPPER).unwrap();
    // The assertions do assert.
    let wrong = text.replacen("(&(((ImageSource*)0)->width)) == ", "(&(((ImageSource*)0)->width)) == 1 + ", 1);
    assert_ne!(wrong, text);
    let error =
        nvrtc().compile(&Source { text: source(&wrong).text, ..PREPARE }, Arch::HOPPER).unwrap_err().to_string();
    assert!(error.contains("offset of ImageSource.width"), "{error}");
}

#[test]
fn a_mistake_is_one_line_with_its_place() {
    let compile = |text: &str| {
        let error = nvrtc().compile(&source(text), Arch::HOPPER).unwrap_err();
        let line = error.to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let line = compile("extern \"C\" __global__ void entry(float* out)\n{\n    out[0] = 1\n}\n");
    assert!(line.starts_with("made-up.cu(4): error: expected a \";\""), "{line}");
    assert!(line.ends_with("kernel source made-up.cu was not compiled for sm_90 by NVRTC 13.0"), "{line}");
    // The place is that of the file, not of the text that was made of several.
    let broken = LOG_MEL.text.replacen("sqrtf(", "sqrtf(undeclared + ", 1);
    let at =
        LOG_MEL.text[..LOG_MEL.text.find("sqrtf(").unwrap()].rsplit("logmel.cu\"\n").next().unwrap().lines().count();
    let line = compile(&broken);
    assert!(line.starts_with(&format!("logmel.cu({at}): error: identifier \"undeclared\" is undefined")), "{line}");

    assert!(compile("__global__ void entry() {}").contains("lacks the entry point entry"));
    assert!(compile("void\0").contains("a zero byte"));
    assert!(compile(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("at most"));
    let error = nvrtc().compile(&PREPARE, Arch { major: 2, minor: 0 }).unwrap_err().to_string();
    assert!(error.contains("invalid value for --gpu-architecture") && error.contains("for sm_20"), "{error}");
}

#[test]
fn a_missing_or_foreign_compiler_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| {
        let named = Some(folder.path().join(name));
        let line = Nvrtc::open(&NvrtcSearch { named, cache: Some(setup::cache()) }).unwrap_err();
        assert_eq!(line.to_string().lines().count(), 1, "{line}");
        line
    };
    let missing = named("none.so");
    assert!(matches!(&missing, CompileError::Missing { .. }));
    let text = missing.to_string();
    assert!(text.contains("none.so") && text.contains("run ops/setup") && text.contains("--nvrtc"), "{text}");
    fs::write(folder.path().join("text.so"), "not a library").unwrap();
    assert!(matches!(named("text.so"), CompileError::Unusable { .. }));
    // A library, but another one.
    fs::copy(setup::cached("lib/libonnxruntime.so.1.31.1"), folder.path().join("other.so")).unwrap();
    let other = named("other.so");
    assert!(other.to_string().contains("nvrtcVersion"), "{other}");

    // An empty cache falls through to the system's; this holds with and without one.
    match Nvrtc::open(&NvrtcSearch { named: None, cache: Some(folder.path().to_owned()) }) {
        Ok(found) => assert!(!found.library().contains('/'), "{found:?}"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("cuda/lib/libnvrtc.so.13 is not there; the system has no libnvrtc.so.13"), "{text}");
        }
    }
}

#[test]
fn a_compiler_without_its_builtins_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let lonely = folder.path().join("libnvrtc.so.13");
    fs::copy(setup::cached("cuda/lib/libnvrtc.so.13"), &lonely).unwrap();
    // In a process of its own, where nobody else has loaded the builtins.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "compile::lonely_compiler", "--ignored", "--nocapture"])
        .env("LONELY_NVRTC", &lonely)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("COMPILED: ")).unwrap_or_else(|| panic!("{output:?}"));
    assert!(line.contains("failed to open libnvrtc-builtins.so.13.0; kernel source prepare.cu"), "{line}");
}

#[test]
#[ignore = "part of a_compiler_without_its_builtins_says_so"]
fn lonely_compiler() {
    let Some(named) = std::env::var_os("LONELY_NVRTC") else { return };
    let nvrtc = Nvrtc::open(&NvrtcSearch { named: Some(named.into()), cache: None }).unwrap();
    match nvrtc.compile(&PREPARE, Arch::HOPPER) {
        // The system may have builtins of the same version.
        Ok(_) => println!("COMPILED: failed to open libnvrtc-builtins.so.13.0; kernel source prepare.cu: not so here"),
        Err(error) => println!("COMPILED: {error}"),
    }
}
