//! Overlapping windows over samples.

/// How many windows of `window` samples every `hop` samples cover all of `samples`: one when there is any sample, and
/// another for every hop that is needed until the last sample is covered. The last one is filled up with silence.
#[must_use]
pub const fn windows(samples: usize, window: usize, hop: usize) -> usize {
    if samples == 0 || window == 0 || hop == 0 { 0 } else { 1 + samples.saturating_sub(window).div_ceil(hop) }
}

/// Windows of `window` samples every `hop` samples, each preceded by `context` samples of what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub window: usize,
    pub hop: usize,
    pub context: usize,
}

impl Windows {
    /// Windows that cover `samples` samples.
    #[must_use]
    pub const fn count(&self, samples: usize) -> usize {
        windows(samples, self.window, self.hop)
    }

    /// Values of one window in the network's input: the context and the window.
    #[must_use]
    pub const fn values(&self) -> usize {
        self.context + self.window
    }

    /// Writes window number `index` to `out`, whose length is [`Self::values`]. Before the first sample and after the
    /// last there is silence; `before` is what came before the first sample, most recent last, where it is known.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn write(&self, before: &[f32], samples: &[f32], index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.values(), "a window has context and window samples");
        let start = index.saturating_mul(self.hop);
        // The part of the context that lies before the first sample.
        let missing = self.context.saturating_sub(start);
        let (head, body) = out.split_at_mut(missing);
        let known = before.len().min(missing);
        let (silence, recent) = head.split_at_mut(missing - known);
        silence.fill(0.0);
        recent.copy_from_slice(&before[before.len() - known..]);
        let from = (start + missing).saturating_sub(self.context).min(samples.len());
        let to = start.saturating_add(self.window).min(samples.len());
        let (filled, silence) = body.split_at_mut(to - from);
        filled.copy_from_slice(&samples[from..to]);
        silence.fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_covered() {
        // YAMNet: 15,600 samples every 7,680.
        assert_eq!(windows(0, 15_600, 7_680), 0);
        assert_eq!(windows(1, 15_600, 7_680), 1);
        assert_eq!(windows(15_600, 15_600, 7_680), 1);
        assert_eq!(windows(15_601, 15_600, 7_680), 2);
        assert_eq!(windows(23_280, 15_600, 7_680), 2);
        assert_eq!(windows(23_281, 15_600, 7_680), 3);
        // Silero: 512 every 512.
        assert_eq!(windows(1_024, 512, 512), 2);
        assert_eq!(windows(1_025, 512, 512), 3);
        assert_eq!(windows(5, 0, 1), 0);
        assert_eq!(windows(5, 1, 0), 0);
    }

    #[test]
    fn context_comes_from_the_window_before() {
        let windows = Windows { window: 4, hop: 4, context: 2 };
        let samples: Vec<f32> = (1_u8..=10).map(f32::from).collect();
        let mut out = [9.0; 6];
        windows.write(&[], &samples, 0, &mut out);
        assert_eq!(out, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        windows.write(&[], &samples, 1, &mut out);
        assert_eq!(out, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        windows.write(&[], &samples, 2, &mut out);
        assert_eq!(out, [7.0, 8.0, 9.0, 10.0, 0.0, 0.0]);
        windows.write(&[], &samples, 3, &mut out);
        assert_eq!(out, [0.0; 6]);
        windows.write(&[-3.0, -2.0, -1.0], &samples, 0, &mut out);
        assert_eq!(out, [-2.0, -1.0, 1.0, 2.0, 3.0, 4.0]);
        windows.write(&[-1.0], &samples, 0, &mut out);
        assert_eq!(out, [0.0, -1.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn context_longer_than_the_hop_reaches_over_several_windows() {
        let windows = Windows { window: 2, hop: 1, context: 3 };
        let samples = [1.0, 2.0, 3.0, 4.0];
        let mut out = [9.0; 5];
        windows.write(&[-2.0, -1.0], &samples, 1, &mut out);
        assert_eq!(out, [-2.0, -1.0, 1.0, 2.0, 3.0]);
        windows.write(&[-2.0, -1.0], &samples, 2, &mut out);
        assert_eq!(out, [-1.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(windows.count(4), 3);
    }
}
