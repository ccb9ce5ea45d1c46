//! `model.toml`: everything the node needs to know about a model before it runs it.

use std::fmt;
use std::path::{Path, PathBuf};

use sensorium_wire::submit::Modality;
use sensorium_wire::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// A model's manifest, as written in `model.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The model's name, also its folder's: 1 to 31 of `a-z 0-9 - _`.
    pub name: String,
    /// Rises with every change of weights or steps. From 1.
    pub version: u32,
    pub modality: Modality,
    /// One sentence for people.
    pub description: String,
    /// Where the weights come from (package and path).
    pub source: String,
    /// SPDX expression.
    pub licence: String,
    /// Files of the model. Empty only for `interpret.step = "identity"`, which needs no network.
    #[serde(default, rename = "file")]
    pub files: Vec<FileEntry>,
    /// The same networks with other weights, for other arithmetic; each precision at most once. Inputs, outputs and steps
    /// are the model's.
    #[serde(default, rename = "variant", skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantEntry>,
    #[serde(default)]
    pub placement: Placement,
    /// The model that goes on where this one ends, for a network that is split by stages. Only with
    /// `interpret.step = "stage"`, and then always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Inputs of the networks, checked against the ONNX files at load.
    #[serde(default, rename = "input")]
    pub inputs: Vec<TensorEntry>,
    /// Outputs that are used; a network may have more.
    #[serde(default, rename = "output")]
    pub outputs: Vec<TensorEntry>,
    pub prepare: Prepare,
    pub interpret: Interpret,
}

impl Manifest {
    /// Reads and checks the text of a `model.toml`; `file` is only named in errors.
    ///
    /// # Errors
    /// [`ModelError`] with file, field and what was expected.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ModelError> {
        let manifest = crate::parse::parse(text, file)?;
        crate::validate::validate(&manifest).map_err(|(field, problem)| ModelError::Field {
            file: file.to_owned(),
            field,
            problem,
        })?;
        Ok(manifest)
    }

    /// Whether there are networks for this precision.
    #[must_use]
    pub fn has(&self, precision: Precision) -> bool {
        precision == Precision::Fp32 || self.variants.iter().any(|variant| variant.name == precision)
    }
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub role: FileRole,
    /// A plain file name: no folders.
    pub path: PathBuf,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Networks that stand in for the model's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantEntry {
    /// What it computes in: never `fp32`, which the model itself is.
    pub name: Precision,
    /// One for each network of the model.
    #[serde(rename = "file")]
    pub files: Vec<FileEntry>,
}

/// The floats that a network computes in. Inputs and outputs are what the manifest says either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: the model's own networks.
    #[default]
    Fp32,
    /// 16 bits where that does no harm, which the network's maker decides.
    Fp16,
}

impl Precision {
    /// The name as manifests, configurations and receipts write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        }
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// The network, for models that have one.
    Network,
    /// Encoder and decoder, for models that have two.
    Encoder,
    Decoder,
    /// Class names: one a line, or a CSV whose last column is the name and whose first line is a heading.
    Labels,
    /// A tokenizer in the Hugging Face JSON form, for decoding only.
    Tokenizer,
}

impl FileRole {
    /// The name as manifests write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Labels => "labels",
            Self::Tokenizer => "tokenizer",
        }
    }

    /// Whether the file is a network, as opposed to data beside one.
    #[must_use]
    pub const fn is_network(self) -> bool {
        match self {
            Self::Network | Self::Encoder | Self::Decoder => true,
            Self::Labels | Self::Tokenizer => false,
        }
    }
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a model may run and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Kinds of device, best first.
    pub devices: Vec<DeviceKind>,
    /// Most jobs in one batch. Default 1.
    pub batch_max: u16,
    /// A batch that runs longer is taken for hung and its worker is replaced, in milliseconds. Default 30,000.
    pub run_ms_max: u32,
    /// Longest result of one job, in bytes; 0 = as long as the payload. Default 65,536.
    pub output_bytes_max: u32,
    /// A job runs for about so long at a time, in milliseconds, and its lane chooses again before it goes on; 0 = it runs
    /// to its end in one go. Only for steps that can be sliced ([`Interpret::sliceable`]). Default 0.
    ///
    /// Shorter slices hold the lane's other models up for less time; each costs a round trip between node and worker. A
    /// slice is over its time by at most one step of the work.
    pub slice_ms: u32,
    /// Threads that compute one batch on a CPU device, as far as it has cores. Default 1. More make an answer come sooner
    /// where a model's operators are large (visual ones); they slow small operators down, and each batch is as slow as
    /// its slowest thread when other work wants the cores.
    pub threads: u16,
    /// On a GPU device: which processor computes the network's operators. Default `mixed`. On a CPU device it says nothing.
    pub compute: Compute,
    /// On a GPU device: whether the launches of a batch are recorded once for each batch size and replayed as one (CUDA
    /// graphs), which saves the time between many small operators. Needs `compute = "gpu"`, a `batch_max` of at most 32,
    /// and inputs whose dimensions are fixed but for the first. Batches are filled up to 1, 2, 4, 8, 16 or 32 rows.
    /// Default false.
    pub graphs: bool,
    /// On a GPU device: what the networks compute in, where the node's configuration does not say it (`gpu_precision`).
    /// Needs a variant of that name. Default `fp32`.
    pub gpu_precision: Precision,
    /// Names of the devices that may run it, for example `["cuda:0"]`; empty = all of a kind in `devices`. A node's
    /// configuration (`pin`) overrides it; a node that has none of them does not start. Default empty.
    pub pin: Vec<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            batch_max: 1,
            run_ms_max: 30_000,
            output_bytes_max: 64 << 10,
            slice_ms: 0,
            threads: 1,
            compute: Compute::Mixed,
            graphs: false,
            gpu_precision: Precision::Fp32,
            pin: Vec::new(),
        }
    }
}

/// Which processor of a GPU device computes a model's operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Every one the GPU, but for those that only compute shapes: a promise that is checked when the model is loaded.
    /// Tensors then stay in the GPU's memory from the first operator to the last.
    Gpu,
    /// The GPU those that it has, the processor the others; ONNX Runtime copies between them.
    #[default]
    Mixed,
    /// All the processor: for small networks of many steps, which wait longer for a GPU than they compute.
    Cpu,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Cuda,
    Cpu,
}

/// One tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    pub name: String,
    /// Which file's network it belongs to. Default `network`.
    #[serde(default = "network_role")]
    pub of: FileRole,
    pub dtype: Dtype,
    pub shape: Vec<Dim>,
}

impl TensorEntry {
    /// Its dimensions with one of each that varies.
    #[must_use]
    pub fn one_row(&self) -> Vec<u32> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Named(_) => 1,
        };
        self.shape.iter().map(size).collect()
    }

    /// Bytes of that.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        let elements = self.one_row().iter().fold(1_u64, |product, dim| product.saturating_mul(u64::from(*dim)));
        elements.saturating_mul(self.dtype.bytes() as u64)
    }
}

fn network_role() -> FileRole {
    FileRole::Network
}

/// A dimension: a number, or a name for one that varies (`"N"` is the batch).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    Fixed(u32),
    Named(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// From payload to network input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Prepare {
    /// An image (encoded or raw) resized bilinearly (half-pixel centres, no antialiasing), then `(x - mean) / std` per
    /// channel, where x is 0 to 255 and mean and std are in the order of `channels`; rounded for an input of i32.
    Image {
        width: u32,
        height: u32,
        #[serde(default)]
        fit: Fit,
        channels: ChannelOrder,
        layout: Layout,
        mean: [f32; 3],
        std: [f32; 3],
    },
    /// Sound as mono f32 in -1 to 1 at `sample_rate_hz`, cut into windows of `window_samples` every `hop_samples`, each
    /// preceded by the last `context_samples` of the window before.
    Windows {
        sample_rate_hz: u32,
        window_samples: u32,
        hop_samples: u32,
        #[serde(default)]
        context_samples: u32,
    },
    /// Sound as mono f32 in -1 to 1 at `sample_rate_hz`, whole; longer than `seconds_max` is refused.
    Utterance { sample_rate_hz: u32, seconds_max: u32 },
    /// The tensor as it came: dtype and shape must be the first input's, whose `"N"` may be left out.
    Tensor {},
    /// What the model before gives (`next` there): rows of the first input. `width` and `height` are those of the image that
    /// the first model of the row was fed, for steps that find places in it; 0 = there was none.
    Stage {
        #[serde(default)]
        width: u32,
        #[serde(default)]
        height: u32,
    },
}

/// How an image is fitted to the network's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Each axis on its own; the aspect ratio changes.
    #[default]
    Stretch,
    /// The aspect ratio is kept; what is left over at the right and bottom is filled with `mean`.
    Letterbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Nchw,
    Nhwc,
}

impl Prepare {
    /// The name as manifests write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Image { .. } => "image",
            Self::Windows { .. } => "windows",
            Self::Utterance { .. } => "utterance",
            Self::Tensor {} => "tensor",
            Self::Stage { .. } => "stage",
        }
    }

    /// Size of the image that the network, or the first of its row, is fed, in pixels: width and height.
    #[must_use]
    pub const fn image_size(&self) -> Option<(u32, u32)> {
        match self {
            Self::Image { width, height, .. } => Some((*width, *height)),
            Self::Stage { width, height } if *width > 0 && *height > 0 => Some((*width, *height)),
            Self::Windows { .. } | Self::Utterance { .. } | Self::Tensor {} | Self::Stage { .. } => None,
        }
    }
}

/// From network outputs to a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Interpret {
    /// Anchor-free boxes with distances as distributions (generalised focal loss): for each stride one output of class
    /// probabilities `[N, cells, classes]` and one of `[N, cells, 4 × bins]`, found by their shapes.
    DetectionsDfl { strides: Vec<u32>, bins: u32, score_min: f32, iou_max: f32, detections_max: u32 },
    /// One row per object: x1, y1, x2, y2 in pixels of the network's input, score, class. Output `[N, rows, 6]`.
    DetectionRows { score_min: f32, iou_max: f32, detections_max: u32 },
    /// Class probabilities `[N, classes]`, averaged over windows.
    Classes { score_min: f32, classes_max: u32 },
    /// Probability of speech per window and a recurrent state.
    Speech {},
    /// Greedy decoding of an encoder and a merged decoder with key-value cache.
    Transcript {
        start_token: u32,
        end_token: u32,
        /// Decoding stops after this many tokens per second of sound, but not before `tokens_min`.
        tokens_per_second_max: f32,
        tokens_min: u32,
        /// Shape of the decoder's key-value cache: `layers` times keys and values of `[N, heads, length, head_size]`.
        layers: u32,
        heads: u32,
        head_size: u32,
    },
    /// Event probabilities `[N, events]` (first output) and intensity `[N, 1]` (second output).
    Fusion { events: Vec<String> },
    /// Points of one body `[N, 1, labels, 3]`: y and x, each 0 to 1 of the network's input, and a score.
    Pose {},
    /// The first output as a tensor.
    Tensor {},
    /// The first output, for the model named by `next`.
    Stage {},
    /// The payload itself; no network.
    Identity {
        /// Give back at most the first so many bytes, as bytes: measures the way in alone. Default 0 = all, as they came.
        #[serde(default)]
        answer_bytes_max: u32,
    },
}

impl Interpret {
    /// The name as manifests write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DetectionsDfl { .. } => "detections_dfl",
            Self::DetectionRows { .. } => "detection_rows",
            Self::Classes { .. } => "classes",
            Self::Speech {} => "speech",
            Self::Transcript { .. } => "transcript",
            Self::Fusion { .. } => "fusion",
            Self::Pose {} => "pose",
            Self::Tensor {} => "tensor",
            Self::Stage {} => "stage",
            Self::Identity { .. } => "identity",
        }
    }

    /// Whether the work of a job can be cut into slices with other work between them.
    #[must_use]
    pub const fn sliceable(&self) -> bool {
        match self {
            Self::Transcript { .. } => true,
            Self::DetectionsDfl { .. }
            | Self::DetectionRows { .. }
            | Self::Classes { .. }
            | Self::Speech {}
            | Self::Fusion { .. }
            | Self::Tensor {}
            | Self::Stage {}
            | Self::Pose {}
            | Self::Identity { .. } => false,
        }
    }

    /// The files that a model with this step must have.
    #[must_use]
    pub const fn roles(&self) -> &'static [FileRole] {
        match self {
            Self::DetectionsDfl { .. } | Self::DetectionRows { .. } | Self::Classes { .. } | Self::Pose {} => {
                &[FileRole::Network, FileRole::Labels]
            }
            Self::Speech {} | Self::Fusion { .. } | Self::Tensor {} | Self::Stage {} => &[FileRole::Network],
            Self::Transcript { .. } => &[FileRole::Encoder, FileRole::Decoder, FileRole::Tokenizer],
            Self::Identity { .. } => &[],
        }
    }
}
