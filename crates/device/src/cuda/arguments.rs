//! Structures that kernels and their twins share, and the checks that make a batch of them safe to run.
//!
//! Plain data without padding; `kernels/arguments.cuh` declares the same in C. A kernel believes what it is given: only
//! the checks of [`checks`] stand between a wrong number and a read outside the memory.

mod checks;
mod detections;
mod image;
mod sound;

use thiserror::Error;

pub use detections::{
    BAD_CLASS, CANDIDATES_MAX, DflLevel, DflOutputs, DflStep, Found, Geometry, LEVELS_MAX, NO_ROW, Outcome, RowsStep,
    SelectStep,
};
pub use image::{ImageSource, Matrix, PixelLayout, PrepareStep, SIDE_PIXELS_MAX};
pub use sound::{BINS, FFT_SIZE, LogMel, LogMelStep, SoundSource};

/// Most images, or sounds, of one launch.
pub const BATCH_MAX: usize = 1024;

/// Why a batch is not run. Sizes are in bytes of the slab, or in values, as the field says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgumentError {
    #[error("a batch of {count}; 1 to {BATCH_MAX} are taken")]
    Batch { count: usize },
    #[error("image {image}: {what} is {value}; expected {expected}")]
    Image { image: usize, what: &'static str, value: u64, expected: String },
    #[error("image {image}: {plane} ends at byte {end}, the slab has {slab_bytes}")]
    Outside { image: usize, plane: &'static str, end: u128, slab_bytes: usize },
    #[error("a slab of {slab_bytes} bytes; its length must be a multiple of 4")]
    Slab { slab_bytes: usize },
    #[error("{what} is {value}; expected {expected}")]
    Step { what: &'static str, value: u64, expected: String },
    #[error("{what} has {values} values; {needed} are needed")]
    Room { what: &'static str, values: usize, needed: u128 },
    #[error("sound {sound}: its frames end at sample {end}, there are {samples}")]
    Sound { sound: usize, end: u128, samples: usize },
}

/// Where the fields of a shared structure lie.
#[derive(Clone, Copy, Debug)]
pub struct StructLayout {
    pub name: &'static str,
    pub bytes: usize,
    /// Name and offset.
    pub fields: &'static [(&'static str, usize)],
}

impl StructLayout {
    /// Assertions in C++ that a declaration of the same name has this layout. `__INTADDR__` is how NVRTC's front end
    /// spells a constant offset without headers.
    #[must_use]
    pub fn assertions(&self) -> String {
        let Self { name, bytes, fields } = self;
        let size = format!("static_assert(sizeof({name}) == {bytes}, \"size of {name}\");\n");
        let offsets = fields.iter().map(|(field, offset)| {
            format!("static_assert(__INTADDR__(&((({name}*)0)->{field})) == {offset}, \"offset of {name}.{field}\");\n")
        });
        std::iter::once(size).chain(offsets).collect()
    }
}

/// All shared structures.
pub const LAYOUTS: [StructLayout; 12] = [
    ImageSource::LAYOUT,
    PrepareStep::LAYOUT,
    DflLevel::LAYOUT,
    DflStep::LAYOUT,
    DflOutputs::LAYOUT,
    RowsStep::LAYOUT,
    SelectStep::LAYOUT,
    Geometry::LAYOUT,
    Outcome::LAYOUT,
    Found::LAYOUT,
    SoundSource::LAYOUT,
    LogMelStep::LAYOUT,
];

/// Declares a structure that is shared with a kernel: plain data in C's layout, with that layout as a constant.
macro_rules! shared {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            /// Where its fields lie.
            pub const LAYOUT: $crate::cuda::arguments::StructLayout = $crate::cuda::arguments::StructLayout {
                name: stringify!($name),
                bytes: size_of::<Self>(),
                fields: &[$((stringify!($field), std::mem::offset_of!(Self, $field)),)*],
            };
        }
    };
}
use shared;
