//! Model packages on a disk: found, refused with a reason, verified, checked against signatures.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use sensorium_models::manifest::{FileRole, Precision};
use sensorium_models::{ModelError, ModelPackage, Repository, Signature, TensorSpec};
use sensorium_wire::tensor::Dtype;
use tempfile::TempDir;

/// SHA-256 of `abc`, from FIPS 180-2.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn detector(name: &str) -> String {
    format!(
        r#"
name = "{name}"
version = 3
modality = "visual"
description = "Objects in an image"
source = "made up"
licence = "MIT"

[[file]]
role = "network"
path = "net.onnx"
sha256 = "{ABC}"

[[file]]
role = "labels"
path = "labels.txt"
sha256 = "{ABC}"

[placement]
devices = ["cpu"]
batch_max = 4

[[input]]
name = "pixels"
dtype = "f32"
shape = ["N", 3, 64, 96]

[[output]]
name = "rows"
dtype = "f32"
shape = ["N", 100, 6]

[prepare]
step = "image"
width = 96
height = 64
channels = "rgb"
layout = "nchw"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]

[interpret]
step = "detection_rows"
score_min = 0.3
iou_max = 0.6
detections_max = 100
"#
    )
}

struct Disk {
    root: TempDir,
}

impl Disk {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("models")).unwrap();
        fs::create_dir_all(root.path().join("weights")).unwrap();
        Self { root }
    }

    fn models(&self) -> PathBuf {
        self.root.path().join("models")
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(&self) -> Repository {
        Repository::open(&[self.models()], &self.root.path().join("weights")).unwrap()
    }

    fn package(&self, manifest: &str) -> Result<ModelPackage, ModelError> {
        self.put("models/one/model.toml", manifest);
        ModelPackage::open(&self.models().join("one"), &self.root.path().join("weights"))
    }
}

#[test]
fn a_broken_model_does_not_hide_the_others() {
    let disk = Disk::new();
    disk.put("models/good/model.toml", &detector("good"));
    disk.put("models/other/model.toml", &detector("renamed"));
    disk.put("models/spoilt/model.toml", "name = ");
    disk.put("models/notes/readme.txt", "not a model");
    let repository = disk.open();
    assert_eq!(repository.models.keys().collect::<Vec<_>>(), ["good"]);
    let broken: Vec<_> = repository.broken.iter().map(|(name, error)| (name.as_str(), error.to_string())).collect();
    assert_eq!(broken.len(), 2);
    assert!(broken[0].0 == "other" && broken[0].1.ends_with("name: renamed differs from the folder's name"));
    assert!(broken[1].0 == "spoilt" && broken[1].1.contains("not valid TOML"), "{broken:?}");
}

#[test]
fn the_first_of_two_folders_wins_and_the_second_is_reported() {
    let disk = Disk::new();
    disk.put("models/one/model.toml", &detector("one"));
    disk.put("more/one/model.toml", &detector("one"));
    let dirs = [disk.root.path().join("more"), disk.models()];
    let repository = Repository::open(&dirs, Path::new("weights")).unwrap();
    assert!(repository.models["one"].folder.starts_with(&dirs[0]));
    assert!(matches!(&repository.broken[..], [(_, ModelError::Duplicate { .. })]));
    assert!(matches!(Repository::open(&[disk.root.path().join("none")], Path::new("")), Err(ModelError::Read { .. })));
}

#[test]
fn files_are_found_beside_the_manifest_then_among_the_weights() {
    let disk = Disk::new();
    disk.put("models/one/labels.txt", "abc");
    let package = disk.package(&detector("one")).unwrap();
    let error = package.verify().unwrap_err().to_string();
    assert!(error.contains("weights/one/net.onnx: the network file is not there; run ops/setup"), "{error}");

    disk.put("weights/one/net.onnx", "abc");
    disk.put("weights/one/labels.txt", "not this one");
    let package = disk.package(&detector("one")).unwrap();
    package.verify().unwrap();
    assert!(package.file(FileRole::Labels).unwrap().starts_with(disk.models()));
    assert_eq!(package.labels().unwrap(), ["abc"]);

    disk.put("weights/one/net.onnx", "abd");
    let error = package.verify().unwrap_err();
    assert!(
        matches!(&error, ModelError::Digest { expected, actual, .. } if expected == ABC && actual != ABC),
        "{error}"
    );
    assert!(matches!(package.file(FileRole::Tokenizer), Err(ModelError::NoSuchFile { .. })));
}

/// A detector with a variant whose network is elsewhere.
fn with_variant() -> String {
    let variant = format!(
        "[[variant]]\nname = \"fp16\"\nfile = [{{ role = \"network\", path = \"half.onnx\", sha256 = \"{ABC}\" }}]\n"
    );
    detector("one").replace("[placement]", &format!("{variant}\n[placement]"))
}

#[test]
fn a_variant_has_networks_of_its_own_and_shares_the_rest() {
    let disk = Disk::new();
    disk.put("models/one/net.onnx", "abc");
    disk.put("models/one/labels.txt", "abc");
    let package = disk.package(&with_variant()).unwrap();
    package.verify().expect("what is not used need not be there");
    assert_eq!(package.in_precision(Precision::Fp32), Some(package.clone()));
    let half = package.in_precision(Precision::Fp16).unwrap();
    let error = half.verify().unwrap_err().to_string();
    assert!(error.contains("weights/one/half.onnx: the network file is not there; run ops/setup"), "{error}");
    disk.put("weights/one/half.onnx", "abd");
    assert!(matches!(half.verify(), Err(ModelError::Digest { .. })));
    disk.put("weights/one/half.onnx", "abc");
    half.verify().unwrap();
    assert_eq!(half.precision, Precision::Fp16);
    assert!(half.file(FileRole::Network).unwrap().ends_with("weights/one/half.onnx"));
    assert_eq!(half.file(FileRole::Labels).unwrap(), package.file(FileRole::Labels).unwrap());
    let without = disk.package(&detector("one")).unwrap();
    assert_eq!(without.in_precision(Precision::Fp16), None);
}

#[test]
fn variants_that_do_not_fit_their_model() {
    let disk = Disk::new();
    let good = with_variant();
    disk.package(&good).unwrap();
    for (from, to, expected) in [
        ("name = \"fp16\"", "name = \"fp32\"", "variant[0].name: fp32, which the model's own files are"),
        ("name = \"fp16\"", "name = \"fp8\"", "variant[0].name: fp8 is not known; expected one of fp32, fp16"),
        ("name = \"fp16\"", "nam = \"fp16\"", "variant[0].nam: unknown key; did you mean name?"),
        (
            "path = \"half.onnx\"",
            "path = \"../half.onnx\"",
            "variant[0].file[0].path: \"../half.onnx\"; expected a plain",
        ),
        ("path = \"half.onnx\"", "path = \"net.onnx\"", "variant[0].file[0].path: net.onnx is listed twice"),
        (
            "{ role = \"network\"",
            "{ role = \"labels\"",
            "variant[0].file: expected a file for each network of the model: network",
        ),
        ("batch_max = 4", "batch_max = 4\npin = [\"cpu:0\", \"cpu:0\"]", "placement.pin: expected different names"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = disk.package(&good.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
    let asks = detector("one").replace("batch_max = 4", "batch_max = 4\ngpu_precision = \"fp16\"");
    let error = disk.package(&asks).unwrap_err().to_string();
    assert!(error.contains("placement.gpu_precision: fp16; there is no [[variant]] with name = \"fp16\""), "{error}");
    disk.package(&good.replace("batch_max = 4", "batch_max = 4\ngpu_precision = \"fp16\"")).unwrap();
}

#[test]
fn rules_that_types_do_not_hold() {
    let disk = Disk::new();
    let good = detector("one");
    for (from, to, field) in [
        ("name = \"one\"", "name = \"One\"", "name: \"One\"; expected 1 to 31 of"),
        ("version = 3", "version = 0", "version: 0; expected 1 to"),
        ("licence = \"MIT\"", "licence = \"\"", "licence: 0 bytes"),
        ("path = \"net.onnx\"", "path = \"../net.onnx\"", "file[0].path: \"../net.onnx\"; expected a plain"),
        ("path = \"net.onnx\"", "path = \"/net.onnx\"", "file[0].path"),
        ("path = \"net.onnx\"", "path = \"..\"", "file[0].path"),
        ("path = \"net.onnx\"", "path = \"a\\\\b\"", "file[0].path"),
        ("path = \"labels.txt\"", "path = \"net.onnx\"", "file[1].path: net.onnx is listed twice"),
        (ABC, &ABC.to_uppercase(), "file[0].sha256"),
        ("step = \"detection_rows\"", "step = \"pos\"", "interpret.step: pos is not known; expected one of"),
        ("step = \"detection_rows\"", "step = \"pos\"", "did you mean pose?"),
        ("role = \"labels\"", "role = \"tokenizer\"", "file: no labels file; interpret step detection_rows needs one"),
        ("role = \"labels\"", "role = \"encoder\"", "file: no labels file"),
        ("devices = [\"cpu\"]", "devices = []", "placement.devices"),
        ("batch_max = 4", "batch_max = 65", "placement.batch_max: 65; expected 1 to 64"),
        ("batch_max = 4", "run_ms_max = 0", "placement.run_ms_max: 0; expected 1 to 600000"),
        ("batch_max = 4", "output_bytes_max = 33554433", "placement.output_bytes_max"),
        ("batch_max = 4", "slice_ms = 4", "placement.slice_ms: 4; expected 0 (all in one go) or 5 to 1000"),
        ("batch_max = 4", "slice_ms = 1001", "placement.slice_ms: 1001; expected 0 (all in one go) or 5 to 1000"),
        (
            "batch_max = 4",
            "slice_ms = 40",
            "placement.slice_ms: 40; jobs of interpret step detection_rows cannot be cut into slices; expected 0",
        ),
        ("batch_max = 4", "compute = \"gpus\"", "compute"),
        ("batch_max = 4", "graphs = true", "placement.graphs: true; expected false, or compute = \"gpu\" with it"),
        (
            "batch_max = 4",
            "batch_max = 33\ncompute = \"gpu\"\ngraphs = true",
            "placement.graphs: true with a batch_max of 33; at most 32 work",
        ),
        (
            "batch_max = 4\n\n[[input]]\nname = \"pixels\"\ndtype = \"f32\"\nshape = [\"N\", 3, 64, 96]",
            "batch_max = 4\ncompute = \"gpu\"\ngraphs = true\n\n[[input]]\nname = \"pixels\"\ndtype = \"f32\"\nshape = [\"N\", 3, \"H\", 96]",
            "input[0].shape: dimension H varies, and placement.graphs is true; only the first may",
        ),
        (
            "shape = [\"N\", 3, 64, 96]",
            "shape = [1, 3, 64, 96]",
            "placement.batch_max: 4; the first dimension of input",
        ),
        (
            "shape = [\"N\", 3, 64, 96]",
            "shape = [\"N\", 64, 96, 3]",
            "input[0].shape: the prepare step makes [N, 3, 64, 96]",
        ),
        ("shape = [\"N\", 100, 6]", "shape = [\"N\", 0, 6]", "output[0].shape: a dimension of 0"),
        ("name = \"rows\"", "name = \"rows\"\nof = \"decoder\"", "output: none of the network network"),
        ("width = 96", "width = 0", "prepare.width: 0; expected 1 to 4096"),
        ("std = [1.0, 1.0, 1.0]", "std = [1.0, 0.0, 1.0]", "prepare.std"),
        ("score_min = 0.3", "score_min = 1.5", "interpret.score_min: 1.5; expected 0 to 1"),
        ("iou_max = 0.6", "iou_max = nan", "interpret.iou_max: NaN"),
        ("detections_max = 100", "detections_max = 5000", "interpret.detections_max: 5000; expected 1 to 4096"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = disk.package(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(field), "{to}: {error}");
    }
}

#[test]
fn steps_must_fit_each_other() {
    let disk = Disk::new();
    let identity = r#"
name = "one"
version = 1
modality = "fusion"
description = "Echo"
source = "none"
licence = "MIT"
[prepare]
step = "tensor"
[interpret]
step = "identity"
"#;
    disk.package(identity).unwrap().verify().unwrap();
    let error = disk.package(&identity.replace("\"identity\"", "\"speech\"")).unwrap_err().to_string();
    assert!(error.contains("prepare.step: tensor; interpret step speech works with windows"), "{error}");
    let with_file = identity
        .replace("[prepare]", &format!("[[file]]\nrole = \"labels\"\npath = \"a\"\nsha256 = \"{ABC}\"\n[prepare]"));
    let error = disk.package(&with_file).unwrap_err().to_string();
    assert!(error.contains("a labels file; interpret step identity has no use for it"), "{error}");
}

#[test]
fn signatures_are_compared_name_type_rank_and_dimensions() {
    let disk = Disk::new();
    let package = disk.package(&detector("one")).unwrap();
    let spec =
        |name: &str, dtype, dims: &[Option<u32>]| TensorSpec { name: name.to_owned(), dtype, dims: dims.to_vec() };
    let input = [None, Some(3), Some(64), Some(96)];
    let output = [None, Some(100), Some(6)];
    let good = Signature {
        inputs: vec![spec("pixels", Dtype::F32, &input)],
        outputs: vec![spec("more", Dtype::I64, &[]), spec("rows", Dtype::F32, &output)],
    };
    package.check(FileRole::Network, &good).unwrap();
    let varying = Signature { inputs: vec![spec("pixels", Dtype::F32, &[None; 4])], ..good.clone() };
    package.check(FileRole::Network, &varying).unwrap();

    for (inputs, outputs, message) in [
        (vec![spec("image", Dtype::F32, &input)], None, "input pixels.name: the manifest says pixels, the network in"),
        (vec![spec("pixels", Dtype::U8, &input)], None, "input pixels.dtype: the manifest says f32"),
        (
            vec![spec("pixels", Dtype::F32, &input[..3])],
            None,
            "input pixels.shape: the manifest says rank 4 [N,3,64,96]",
        ),
        (
            vec![spec("pixels", Dtype::F32, &[None, Some(1), Some(64), Some(96)])],
            None,
            "input pixels.shape[1]: the manifest says 3",
        ),
        (
            vec![spec("pixels", Dtype::F32, &[Some(1), Some(3), Some(64), Some(96)])],
            None,
            "input pixels.shape[0]: the manifest says N, which varies,",
        ),
        (
            vec![spec("pixels", Dtype::F32, &input), spec("sr", Dtype::I64, &[])],
            None,
            "input: the manifest says 1 inputs of network",
        ),
        (
            good.inputs.clone(),
            Some(vec![spec("rows", Dtype::F32, &[None, Some(50), Some(6)])]),
            "output rows.shape[1]: the manifest says 100",
        ),
    ] {
        let signature = Signature { inputs, outputs: outputs.unwrap_or_else(|| good.outputs.clone()) };
        let error = package.check(FileRole::Network, &signature).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(error.contains("model.toml") && error.contains("net.onnx"), "{error}");
    }
}

#[test]
fn the_projects_own_manifests_are_in_order() {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster");
    let folders = ["models", "stages"].map(|folder| cluster.join(folder));
    let repository = Repository::open(&folders, Path::new("/nowhere")).unwrap();
    assert!(repository.broken.is_empty(), "{:?}", repository.broken);
    assert!(repository.models.len() >= 7);
    assert_eq!(repository.models["moonshine"].manifest.placement.slice_ms, 40);
    assert_eq!(repository.models["silero-vad"].manifest.placement.slice_ms, 0);
    for (name, package) in &repository.models {
        // Labels lie beside the manifest; weights are fetched.
        let missing = package.verify().err();
        assert!(
            missing.as_ref().is_none_or(|error| matches!(error, ModelError::Missing { .. })),
            "{name}: {missing:?}"
        );
    }
}

/// The detector in two stages: manifests of the first and the second.
fn two_stages() -> (String, String) {
    let whole = detector("first");
    let (before, after) = whole.split_at(whole.find("[[output]]").unwrap());
    let (rows, steps) = after.split_at(after.find("[prepare]").unwrap());
    let (prepare, interpret) = steps.split_at(steps.find("[interpret]").unwrap());
    let crossing = "name = \"half\"\ndtype = \"f32\"\nshape = [\"N\", 8, 4]\n";
    let first = format!("next = \"second\"{before}[[output]]\n{crossing}{prepare}[interpret]\nstep = \"stage\"\n");
    let before = before.replace("\"first\"", "\"second\"");
    let input = before.find("[[input]]").unwrap();
    let stage = "[prepare]\nstep = \"stage\"\nwidth = 96\nheight = 64\n";
    let second = format!("{}[[input]]\n{crossing}{rows}{stage}{interpret}", &before[..input]);
    (first, second)
}

#[test]
fn stages_must_fit_each_other() {
    let (first, second) = two_stages();
    let open = |first: &str, second: &str| {
        let disk = Disk::new();
        disk.put("models/first/model.toml", first);
        disk.put("models/second/model.toml", second);
        let repository = disk.open();
        let broken: Vec<String> = repository.broken.iter().map(|(_, error)| error.to_string()).collect();
        (repository.models.into_keys().collect::<Vec<_>>(), broken.join("; "))
    };
    assert_eq!(open(&first, &second), (vec!["first".to_owned(), "second".to_owned()], String::new()));

    let told = |first: &str, second: &str, expected: &str| {
        let (models, broken) = open(first, second);
        assert!(!models.contains(&"first".to_owned()) && broken.contains(expected), "{models:?}: {broken}");
    };
    told(&first.replace("\"second\"", "\"third\""), &second, "next: third; there is no such model");
    told(&first, &second.replace("8, 4]", "8, 5]"), "second takes f32 [N,8,5], and output half is f32 [N,8,4]");
    told(
        &first,
        &second.replace("width = 96", "width = 95"),
        "second says that the row's image is 95 × 64; here it is 96 × 64",
    );
    let narrow = first.replace("batch_max = 4", "batch_max = 4\noutput_bytes_max = 143");
    told(&narrow, &second, "second takes 144 bytes, and placement.output_bytes_max is 143");
    assert!(open(&narrow.replace("143", "144"), &second).1.is_empty());
    let tensor = second.replace("step = \"stage\"\nwidth = 96\nheight = 64", "step = \"tensor\"");
    let tensor =
        tensor.replace("detection_rows", "tensor").replace("score_min = 0.3\niou_max = 0.6\ndetections_max = 100", "");
    told(&first, &tensor, "second, whose prepare step is tensor; expected stage");
    // One that goes back to itself by way of another.
    let back = format!("next = \"second\"\n{second}");
    let (from, to) = (back.find("[interpret]").unwrap(), back.len());
    let mut round = back.clone();
    round.replace_range(from..to, "[interpret]\nstep = \"stage\"\n");
    told(&first, &round, "next: second, which is this model");

    let alone = first.replace("next = \"second\"", "");
    told(&alone, &second, "next: expected the model that goes on, with interpret step stage");
    let early = format!("next = \"second\"{}", detector("first"));
    told(&early, &second, "next: second; interpret step detection_rows ends here");
    let unsized_image = second.replace("width = 96\nheight = 64\n", "");
    told(&first, &unsized_image, "prepare.width: 0; interpret step detection_rows needs the size");
}

#[test]
fn a_row_of_stages_has_an_end() {
    let disk = Disk::new();
    let (first, second) = two_stages();
    // b and c go on with each other for ever.
    let link = |name: &str, next: &str| {
        let start = second.find("[interpret]").unwrap();
        let text = second[..start].replace("\"second\"", &format!("{name:?}")).replace("\"rows\"", "\"more\"");
        let text = text.replace("[\"N\", 100, 6]", "[\"N\", 8, 4]");
        format!("next = {next:?}{text}[interpret]\nstep = \"stage\"\n")
    };
    disk.put("models/first/model.toml", &first.replace("\"second\"", "\"b\""));
    disk.put("models/b/model.toml", &link("b", "c"));
    disk.put("models/c/model.toml", &link("c", "b"));
    let repository = disk.open();
    assert!(repository.models.is_empty(), "{:?}", repository.models.keys());
    let broken: Vec<String> = repository.broken.iter().map(|(_, error)| error.to_string()).collect();
    assert_eq!(broken.len(), 3);
    assert!(
        broken.iter().all(|error| error.contains("a row of more than 8 models, or one without an end")),
        "{broken:?}"
    );
}
