//! Compiled kernels are kept, found again, and made again when they are damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use proptest::prelude::*;
use sensorium_device::cuda::cache::{CacheLimits, CubinCache, Origin};
use sensorium_device::cuda::compile::Arch;
use sensorium_device::cuda::kernels::{LOG_MEL, SOURCES};

use crate::compile::{nvrtc, source};

#[test]
fn a_kernel_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    // The folder is made when it is needed.
    let cache = CubinCache::new(&folder.path().join("deep/kernels"), CacheLimits::default());
    let nvrtc = nvrtc();
    for source in SOURCES {
        let first = cache.cubin(&nvrtc, &source, Arch::HOPPER).unwrap();
        assert_eq!(first.origin, Origin::Compiled);
        let again = cache.cubin(&nvrtc, &source, Arch::HOPPER).unwrap();
        assert_eq!((again.origin, again.bytes), (Origin::Cache, first.bytes));
        // Another architecture is another entry.
        assert_eq!(cache.cubin(&nvrtc, &source, Arch { major: 8, minor: 9 }).unwrap().origin, Origin::Compiled);
    }
    assert_eq!(fs::read_dir(folder.path().join("deep/kernels")).unwrap().count(), 2 * SOURCES.len());
    // What does not compile leaves nothing.
    cache.cubin(&nvrtc, &source("wrong"), Arch::HOPPER).unwrap_err();
    assert_eq!(fs::read_dir(folder.path().join("deep/kernels")).unwrap().count(), 2 * SOURCES.len());
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::new(folder.path(), CacheLimits::default());
    let nvrtc = nvrtc();
    let small = source("extern \"C\" __global__ void entry() {}");
    let whole = cache.cubin(&nvrtc, &small, Arch::HOPPER).unwrap().bytes;
    let file = cache.file(&small, Arch::HOPPER, nvrtc.version());
    let kept = fs::read(&file).unwrap();
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) }, |(
        cut in any::<bool>(), at in any::<prop::sample::Index>(), flip in 1_u8..,
    )| {
        let mut bytes = kept.clone();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        fs::write(&file, bytes).unwrap();
        let cubin = cache.cubin(&nvrtc, &small, Arch::HOPPER).unwrap();
        prop_assert_eq!((&cubin.origin, &cubin.bytes), (&Origin::Compiled, &whole));
        prop_assert_eq!(cache.cubin(&nvrtc, &small, Arch::HOPPER).unwrap().origin, Origin::Cache);
    });
    // Whole, but of another source: as a renamed file would be.
    let other = cache.cubin(&nvrtc, &LOG_MEL, Arch::HOPPER).unwrap();
    fs::copy(cache.file(&LOG_MEL, Arch::HOPPER, nvrtc.version()), &file).unwrap();
    assert_eq!(other.origin, Origin::Compiled);
    assert_eq!(cache.cubin(&nvrtc, &small, Arch::HOPPER).unwrap().origin, Origin::Compiled);
    // Longer than any kernel may be.
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(cache.cubin(&nvrtc, &small, Arch::HOPPER).unwrap().origin, Origin::Compiled);
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_time() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: also root cannot write below it.
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    fs::set_permissions(&blocked, fs::Permissions::from_mode(0o400)).unwrap();
    let cache = CubinCache::new(&blocked.join("kernels"), CacheLimits::default());
    let cubin = cache.cubin(&nvrtc(), &LOG_MEL, Arch::HOPPER).unwrap();
    assert!(matches!(&cubin.origin, Origin::Unkept { problem } if problem.contains("kernels")), "{:?}", cubin.origin);
    assert!(cubin.bytes.starts_with(b"\x7fELF"));
}

#[test]
fn processes_and_threads_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut processes: Vec<_> = (0..2)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cache::one_of_several", "--ignored"])
                .env("KERNEL_FOLDER", folder.path())
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
#[ignore = "part of processes_and_threads_do_not_disturb_each_other"]
fn one_of_several() {
    let Some(folder) = std::env::var_os("KERNEL_FOLDER") else { return };
    let cache = CubinCache::new(folder.as_ref(), CacheLimits::default());
    let nvrtc = nvrtc();
    // Small ones: they compile in a moment.
    let sources =
        ["// One.", "// Another."].map(|text| source(&format!("{text}\nextern \"C\" __global__ void entry() {{}}")));
    let expected = sources.map(|source| nvrtc.compile(&source, Arch::HOPPER).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for (source, expected) in sources.iter().zip(&expected) {
                    for _ in 0..4 {
                        let cubin = cache.cubin(&nvrtc, source, Arch::HOPPER).unwrap();
                        assert!(cubin.bytes == *expected && !matches!(cubin.origin, Origin::Unkept { .. }));
                    }
                    // Others may be reading it.
                    let _ = fs::remove_file(cache.file(source, Arch::HOPPER, nvrtc.version()));
                    cache.cubin(&nvrtc, source, Arch::HOPPER).unwrap();
                }
            });
        }
    });
}
