//! What is checked before a kernel runs.

use super::{
    ArgumentError, BATCH_MAX, BINS, DflStep, FFT_SIZE, Geometry, ImageSource, LogMel, LogMelStep, PixelLayout,
    PrepareStep, RowsStep, SIDE_PIXELS_MAX, SelectStep, SoundSource,
};

/// Most candidates of one image, and most classes, bins or boxes: far more than networks have, and such that no product
/// of sizes overflows.
const COUNT_MAX: u32 = 1 << 20;

impl PrepareStep {
    /// Checks a batch of images in a slab of `slab_bytes` bytes for an input of `slots` rows.
    ///
    /// # Errors
    /// The first image that the kernel could read or write outside the memory for, and what is wrong with it.
    pub fn check(&self, sources: &[ImageSource], slab_bytes: usize, slots: usize) -> Result<(), ArgumentError> {
        batch(sources.len())?;
        // The kernel reads aligned words of four bytes.
        if !slab_bytes.is_multiple_of(4) {
            return Err(ArgumentError::Slab { slab_bytes });
        }
        side("the input's width", self.width)?;
        side("the input's height", self.height)?;
        at_most("layout", self.layout, 1)?;
        at_most("channels", self.channels, 1)?;
        for (image, source) in sources.iter().enumerate() {
            source.check(image, self, slab_bytes, slots)?;
        }
        Ok(())
    }

    /// Values of one image: width × height × 3.
    #[must_use]
    pub const fn values(&self) -> usize {
        (self.width as usize).saturating_mul(self.height as usize).saturating_mul(3)
    }
}

impl ImageSource {
    fn check(&self, image: usize, step: &PrepareStep, slab_bytes: usize, slots: usize) -> Result<(), ArgumentError> {
        let wrong = |what: &'static str, value: u64, expected: String| {
            Err(ArgumentError::Image { image, what, value, expected })
        };
        let Some(layout) = PixelLayout::ALL.into_iter().find(|layout| *layout as u32 == self.format) else {
            return wrong("the format", u64::from(self.format), "a pixel layout, 0 to 4".to_owned());
        };
        for (what, value, max) in [
            ("the width", self.width, SIDE_PIXELS_MAX),
            ("the height", self.height, SIDE_PIXELS_MAX),
            ("the fitted width", self.fitted_width, step.width),
            ("the fitted height", self.fitted_height, step.height),
        ] {
            if !(1..=max).contains(&value) {
                return wrong(what, u64::from(value), format!("1 to {max} pixels"));
            }
        }
        if self.slot as usize >= slots {
            return wrong("the slot", u64::from(self.slot), format!("less than {slots}"));
        }
        if self.matrix > 1 {
            return wrong("the matrix", u64::from(self.matrix), "0 (BT.601) or 1 (BT.709)".to_owned());
        }
        let (half_width, half_height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let first = ("the first plane", self.offset, self.stride, self.height);
        let second = ("the plane of chroma", self.chroma_offset, self.chroma_stride, half_height);
        let third = ("the second plane of chroma", self.chroma_offset_second, self.chroma_stride, half_height);
        let planes = match layout {
            PixelLayout::Rgb24 | PixelLayout::Bgr24 => vec![(first, 3 * self.width)],
            PixelLayout::Gray8 => vec![(first, self.width)],
            PixelLayout::Nv12 => vec![(first, self.width), (second, 2 * half_width)],
            PixelLayout::I420 => vec![(first, self.width), (second, half_width), (third, half_width)],
        };
        for ((plane, offset, stride, rows), row_bytes) in planes {
            if stride < row_bytes {
                return wrong("the stride", u64::from(stride), format!("at least {row_bytes} bytes for {plane}"));
            }
            let end = u128::from(offset) + u128::from(rows - 1) * u128::from(stride) + u128::from(row_bytes);
            if end > slab_bytes as u128 {
                return Err(ArgumentError::Outside { image, plane, end, slab_bytes });
            }
        }
        Ok(())
    }
}

impl DflStep {
    /// Checks the sizes; `images` is how many the outputs hold.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self, images: usize) -> Result<(), ArgumentError> {
        batch(images)?;
        count("the number of classes", self.classes)?;
        count("the number of bins", self.bins)?;
        count("the number of cells", self.candidates)?;
        let levels = self.levels.get(..self.level_count as usize).unwrap_or_default();
        let mut first = 0_u32;
        for level in levels {
            count("a stride", level.stride)?;
            count("the number of columns", level.columns)?;
            count("the number of cells", level.cells)?;
            if level.first != first {
                return Err(step("a level's first cell", level.first, format!("{first}")));
            }
            first += level.cells;
        }
        if levels.is_empty() || first != self.candidates {
            return Err(step("the number of cells", self.candidates, format!("{first}, those of all levels")));
        }
        Ok(())
    }
}

impl RowsStep {
    /// Checks the sizes; `values` is the length of the output, of `images` images.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self, images: usize, values: usize) -> Result<(), ArgumentError> {
        batch(images)?;
        count("the number of rows", self.rows)?;
        count("the number of classes", self.classes)?;
        room("the output of rows", values, images as u128 * u128::from(self.rows) * 6)
    }
}

impl SelectStep {
    /// Checks the sizes; `found` is how many boxes there is room for.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self, geometries: &[Geometry], found: usize) -> Result<(), ArgumentError> {
        batch(geometries.len())?;
        count("the number of candidates", self.candidates)?;
        count("the number of boxes", self.detections_max)?;
        room("the list of boxes", found, geometries.len() as u128 * u128::from(self.detections_max))
    }
}

impl LogMel {
    /// Checks a batch of sounds in `samples` samples that are written to `values` values.
    ///
    /// # Errors
    /// The first sound that the kernel could read or write outside the memory for.
    pub fn check(&self, sounds: &[SoundSource], samples: usize, values: usize) -> Result<(), ArgumentError> {
        batch(sounds.len())?;
        self.check_tables()?;
        for (index, sound) in sounds.iter().enumerate() {
            count("the number of frames", sound.frames)?;
            let hops = u128::from(sound.frames - 1) * u128::from(self.step.hop);
            let end = u128::from(sound.offset) + hops + u128::from(self.step.window);
            if end > samples as u128 {
                return Err(ArgumentError::Sound { sound: index, end, samples });
            }
            let rows = u128::from(sound.first_row) + u128::from(sound.frames);
            room("the result", values, rows * u128::from(self.step.bands))?;
        }
        Ok(())
    }

    /// Whether the tables are as large as the step says, and their bands within the frequencies that there are.
    fn check_tables(&self) -> Result<(), ArgumentError> {
        let LogMelStep { window, hop, bands, taps, .. } = self.step;
        range("the window", window, FFT_SIZE)?;
        count("the hop", hop)?;
        count("the number of bands", bands)?;
        range("the number of taps", taps, BINS)?;
        let (bands, taps) = (bands as usize, taps as usize);
        for (what, values, expected) in [
            ("the window", self.window.len(), FFT_SIZE),
            ("the table of turns", self.turns.len(), 2 * FFT_SIZE),
            ("the table of bands", self.bands_first.len(), bands),
            ("the table of weights", self.weights.len(), bands * taps),
        ] {
            if values != expected {
                return Err(ArgumentError::Room { what, values, needed: expected as u128 });
            }
        }
        let first = self.bands_first.iter().copied().max().unwrap_or(0);
        at_most("a band's first frequency", first, u32::try_from(BINS - taps).unwrap_or(0))
    }
}

fn batch(count: usize) -> Result<(), ArgumentError> {
    if (1..=BATCH_MAX).contains(&count) { Ok(()) } else { Err(ArgumentError::Batch { count }) }
}

fn step(what: &'static str, value: u32, expected: String) -> ArgumentError {
    ArgumentError::Step { what, value: u64::from(value), expected }
}

fn range(what: &'static str, value: u32, max: usize) -> Result<(), ArgumentError> {
    let fits = (1..=max).contains(&(value as usize));
    if fits { Ok(()) } else { Err(step(what, value, format!("1 to {max}"))) }
}

fn side(what: &'static str, value: u32) -> Result<(), ArgumentError> {
    let fits = (1..=SIDE_PIXELS_MAX).contains(&value);
    if fits { Ok(()) } else { Err(step(what, value, format!("1 to {SIDE_PIXELS_MAX} pixels"))) }
}

fn count(what: &'static str, value: u32) -> Result<(), ArgumentError> {
    if (1..=COUNT_MAX).contains(&value) { Ok(()) } else { Err(step(what, value, format!("1 to {COUNT_MAX}"))) }
}

fn at_most(what: &'static str, value: u32, max: u32) -> Result<(), ArgumentError> {
    if value <= max { Ok(()) } else { Err(step(what, value, format!("0 to {max}"))) }
}

fn room(what: &'static str, values: usize, needed: u128) -> Result<(), ArgumentError> {
    if values as u128 >= needed { Ok(()) } else { Err(ArgumentError::Room { what, values, needed }) }
}
