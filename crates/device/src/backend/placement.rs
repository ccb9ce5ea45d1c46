//! Where ONNX Runtime put a network's operators, and whether that is what the manifest promises.
//!
//! The runtime tells it itself, at load: nothing is run for it and no file is written. Reading it needs the C interface,
//! which the `ort` crate hands out without wrapping these calls.
#![allow(unsafe_code, reason = "calls of ONNX Runtime's C interface that ort does not wrap")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtMemoryInfo, OrtMemoryInfoDeviceType, OrtStatusPtr};
use sensorium_models::manifest::Compute;

use crate::protocol::PlacementReport;

/// Most operators that are read of one network. Networks here have a few hundred.
const OPERATORS_MAX: usize = 100_000;
/// Most kinds of operator that an error names.
const NAMED_MAX: usize = 12;
/// The providers that compute on a GPU, by ONNX Runtime's names.
const ON_GPU: [&str; 2] = ["CUDAExecutionProvider", "TensorrtExecutionProvider"];

/// One operator of a network and the provider that computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Name of the provider, for example `CPUExecutionProvider`.
    pub provider: String,
    /// Kind of operator, for example `Conv`.
    pub operator: String,
}

/// Kinds of operator that ONNX Runtime leaves on the processor, although the GPU has them, where they only compute the
/// shapes of other tensors: the result is needed there.
const OF_SHAPES: [&str; 8] = ["Shape", "Size", "Slice", "Gather", "Concat", "Squeeze", "Unsqueeze", "Cast"];

/// Where a network's operators are, in counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    pub on_gpu: usize,
    /// How often each kind of operator is elsewhere.
    pub elsewhere: BTreeMap<String, usize>,
    /// Operators by provider, by ONNX Runtime's names.
    pub by_provider: BTreeMap<String, usize>,
}

impl Placed {
    #[must_use]
    pub fn of(assignments: &[Assignment]) -> Self {
        let mut placed = Self::default();
        for assignment in assignments {
            *placed.by_provider.entry(assignment.provider.clone()).or_default() += 1;
            if ON_GPU.contains(&assignment.provider.as_str()) {
                placed.on_gpu += 1;
            } else {
                *placed.elsewhere.entry(assignment.operator.clone()).or_default() += 1;
            }
        }
        placed
    }

    /// Whether every operator is on the GPU, but for those that only compute shapes.
    #[must_use]
    pub fn is_all_on_gpu(&self) -> bool {
        self.on_gpu > 0 && self.elsewhere.keys().all(|kind| OF_SHAPES.contains(&kind.as_str()))
    }

    /// Whether that is what a manifest's `compute` promises; if not, a sentence with the operators.
    ///
    /// # Errors
    /// The sentence.
    pub fn keeps(&self, promise: Compute) -> Result<(), String> {
        match promise {
            Compute::Mixed | Compute::Cpu => Ok(()),
            Compute::Gpu if self.is_all_on_gpu() => Ok(()),
            Compute::Gpu => Err(format!(
                "the manifest says placement.compute = \"gpu\", and {}; say \"mixed\", or change the network",
                self.in_words()
            )),
        }
    }

    /// Kinds of operator that are elsewhere, the most frequent first.
    fn kinds_elsewhere(&self) -> Vec<(&String, &usize)> {
        let mut kinds: Vec<_> = self.elsewhere.iter().collect();
        kinds.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        kinds
    }

    /// Takes another network's operators in.
    pub fn add(&mut self, other: &Self) {
        self.on_gpu += other.on_gpu;
        let mut sum = |into: fn(&mut Self) -> &mut BTreeMap<String, usize>, from: &BTreeMap<String, usize>| {
            for (name, count) in from {
                *into(self).entry(name.clone()).or_default() += count;
            }
        };
        sum(|placed| &mut placed.elsewhere, &other.elsewhere);
        sum(|placed| &mut placed.by_provider, &other.by_provider);
    }

    /// As a worker tells it of a model whose manifest promises `compute`.
    #[must_use]
    pub fn report(&self, compute: Compute) -> PlacementReport {
        let off_gpu = self.kinds_elsewhere().into_iter().map(|(name, count)| (name.clone(), *count)).collect();
        PlacementReport { compute, operators: self.by_provider.clone(), off_gpu, off_gpu_kinds_left_out: 0 }.bounded()
    }

    /// For people: `all 200 operators are on the GPU`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let elsewhere: usize = self.elsewhere.values().sum();
        let all = self.on_gpu + elsewhere;
        if elsewhere == 0 {
            return format!("all {all} operators are on the GPU");
        }
        let kinds = self.kinds_elsewhere();
        let mut named: Vec<_> = kinds.iter().take(NAMED_MAX).map(|(name, count)| format!("{name} × {count}")).collect();
        if kinds.len() > NAMED_MAX {
            named.push(format!("{} more kinds", kinds.len() - NAMED_MAX));
        }
        format!("{elsewhere} of {all} operators are on the processor: {}", named.join(", "))
    }
}

/// Sessions of `builder` remember where their operators are.
pub(super) fn recorded(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error> {
    Ok(builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?)
}

/// The operators of a session made by a [`recorded`] builder.
///
/// # Errors
/// What ONNX Runtime says, or that there are more operators than are read.
pub(super) fn assignments(session: &Session) -> Result<Vec<Assignment>, ort::Error> {
    let api = ort::api();
    let mut found = Vec::new();
    let (mut subgraphs, mut count) = (ptr::null::<*const OrtEpAssignedSubgraph>(), 0);
    // SAFETY: the session is alive, the results are written to two local variables, and the array that they describe
    // belongs to the session and lives as long as it does.
    let subgraphs = unsafe {
        check((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut subgraphs, &raw mut count))?;
        slice(subgraphs, count)?
    };
    for subgraph in subgraphs {
        let mut provider = ptr::null::<c_char>();
        let (mut nodes, mut count) = (ptr::null::<*const OrtEpAssignedNode>(), 0);
        // SAFETY: the subgraph is the session's; so are the name and the array that are given for it.
        let (provider, nodes) = unsafe {
            check((api.EpAssignedSubgraph_GetEpName)(*subgraph, &raw mut provider))?;
            check((api.EpAssignedSubgraph_GetNodes)(*subgraph, &raw mut nodes, &raw mut count))?;
            (text(provider), slice(nodes, count)?)
        };
        for node in nodes {
            if found.len() == OPERATORS_MAX {
                return Err(ort::Error::new(format!("it has more than {OPERATORS_MAX} operators")));
            }
            let mut operator = ptr::null::<c_char>();
            // SAFETY: the node is the session's, and so is its operator's name.
            let operator = unsafe {
                check((api.EpAssignedNode_GetOperatorType)(*node, &raw mut operator))?;
                text(operator)
            };
            found.push(Assignment { provider: provider.clone(), operator });
        }
    }
    Ok(found)
}

/// Whether the runtime wants each input of a session in a GPU's memory, in the order of the inputs. One that only says the
/// shape of others it wants in the processor's, wherever its operators are.
///
/// # Errors
/// What ONNX Runtime says.
pub(super) fn inputs_on_gpu(session: &Session) -> Result<Vec<bool>, ort::Error> {
    let api = ort::api();
    let mut infos = vec![ptr::null::<OrtMemoryInfo>(); session.inputs().len()];
    // SAFETY: the session is alive, and the array has a place for each of its inputs.
    unsafe {
        check((api.SessionGetMemoryInfoForInputs)(session.ptr(), infos.as_mut_ptr(), infos.len()))?;
    }
    let on_gpu = |info: *const OrtMemoryInfo| {
        let mut device = OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
        if !info.is_null() {
            // SAFETY: what the session gave is its own and lives as long as it does.
            unsafe { (api.MemoryInfoGetDeviceType)(info, &raw mut device) };
        }
        device == OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_GPU
    };
    Ok(infos.into_iter().map(on_gpu).collect())
}

/// # Safety
/// `status` is what a call of the C interface returned, and is not used again.
unsafe fn check(status: OrtStatusPtr) -> Result<(), ort::Error> {
    let status = status.0;
    if status.is_null() {
        return Ok(());
    }
    let api = ort::api();
    // SAFETY: a status that is not null has a message until it is released, which happens once, here.
    let message = unsafe {
        let message = text((api.GetErrorMessage)(status));
        (api.ReleaseStatus)(status);
        message
    };
    Err(ort::Error::new(message))
}

/// # Safety
/// `start` is null, or points to `count` values that live for `'a`.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> Result<&'a [T], ort::Error> {
    if start.is_null() || count == 0 {
        return Ok(&[]);
    }
    if count > OPERATORS_MAX {
        return Err(ort::Error::new(format!("a list of {count} parts; at most {OPERATORS_MAX} are read")));
    }
    // SAFETY: by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// # Safety
/// `start` is null or a C string that lives during the call.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: &str = ON_GPU[0];

    fn placed(parts: &[(&str, &str, usize)]) -> Placed {
        let assignments: Vec<_> = parts
            .iter()
            .flat_map(|(provider, operator, count)| {
                let assignment = Assignment { provider: (*provider).to_owned(), operator: (*operator).to_owned() };
                std::iter::repeat_n(assignment, *count)
            })
            .collect();
        Placed::of(&assignments)
    }

    #[test]
    fn a_promise_of_a_gpu_is_kept_only_by_all_operators() {
        let all = placed(&[(CUDA, "Conv", 3), (CUDA, "Relu", 2)]);
        assert_eq!(all.keeps(Compute::Gpu), Ok(()));
        assert_eq!(all.in_words(), "all 5 operators are on the GPU");
        let compiled = placed(&[("TensorrtExecutionProvider", "Conv", 3), (CUDA, "Relu", 2)]);
        assert_eq!(compiled.keeps(Compute::Gpu), Ok(()), "whichever provider has them");
        let shapes = placed(&[(CUDA, "Conv", 3), ("CPUExecutionProvider", "Slice", 1)]);
        assert_eq!(shapes.keeps(Compute::Gpu), Ok(()));
        assert!(shapes.in_words().contains("Slice × 1"), "it is shown all the same");
        assert!(placed(&[("CPUExecutionProvider", "Slice", 1)]).keeps(Compute::Gpu).is_err());
        let some = placed(&[(CUDA, "Conv", 3), ("CPUExecutionProvider", "If", 1), ("CPUExecutionProvider", "Loop", 2)]);
        assert_eq!(some.keeps(Compute::Mixed), Ok(()));
        let refused = some.keeps(Compute::Gpu).unwrap_err();
        assert!(refused.contains("3 of 6 operators are on the processor: Loop × 2, If × 1"), "{refused}");
        assert!(placed(&[]).keeps(Compute::Gpu).is_err(), "nothing known is nothing promised");
    }

    #[test]
    fn networks_of_a_model_are_counted_together_and_told_by_provider() {
        let mut both = placed(&[(CUDA, "Conv", 3), ("CPUExecutionProvider", "If", 1)]);
        both.add(&placed(&[(CUDA, "Relu", 2), ("CPUExecutionProvider", "If", 1), ("CPUExecutionProvider", "Loop", 3)]));
        let report = both.report(Compute::Mixed);
        assert_eq!(report.operators.get(CUDA), Some(&5));
        assert_eq!(report.operators.get("CPUExecutionProvider"), Some(&5));
        assert_eq!(report.off_gpu, [("Loop".to_owned(), 3), ("If".to_owned(), 2)]);
        assert_eq!((report.compute, both.on_gpu), (Compute::Mixed, 5));
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..30).map(|number| format!("Op{number:02}")).collect();
        let parts: Vec<_> = names.iter().map(|name| ("CPUExecutionProvider", name.as_str(), 1)).collect();
        let words = placed(&parts).in_words();
        assert!(words.ends_with("Op11 × 1, 18 more kinds"), "{words}");
    }
}
