//! Twin of `kernels/logmel.cu`.

use crate::cuda::arguments::{FFT_SIZE, LogMel, SoundSource};

/// Threads of a frame.
const LANES: usize = 64;
const HALF: usize = FFT_SIZE / 2;

type Complex = [f32; 2];

fn plus(a: Complex, b: Complex) -> Complex {
    [a[0] + b[0], a[1] + b[1]]
}

fn minus(a: Complex, b: Complex) -> Complex {
    [a[0] - b[0], a[1] - b[1]]
}

fn times(a: Complex, b: Complex) -> Complex {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}

/// Times −i.
fn turned(a: Complex) -> Complex {
    [a[1], -a[0]]
}

/// Writes the frames of every sound, `bands` values each. The batch must have passed [`LogMel::check`].
///
/// # Panics
/// When something outside `samples` is read or outside `out` written: never, for a checked batch.
pub fn log_mel(mel: &LogMel, samples: &[f32], sounds: &[SoundSource], out: &mut [f32]) {
    let step = &mel.step;
    let (window, hop, bands) = (step.window as usize, step.hop as usize, step.bands as usize);
    let turns: Vec<Complex> = mel.turns.chunks_exact(2).map(|turn| [turn[0], turn[1]]).collect();
    for sound in sounds {
        let start = usize::try_from(sound.offset).unwrap_or(usize::MAX);
        for frame in 0..sound.frames as usize {
            let from = &samples[start + frame * hop..][..window];
            let magnitudes = magnitudes(from, &mel.window, &turns);
            let row = &mut out[(sound.first_row as usize + frame) * bands..][..bands];
            for (band, value) in row.iter_mut().enumerate() {
                let first = mel.bands_first[band] as usize;
                let taps = (0..step.taps as usize).map(|tap| mel.weights[tap * bands + band] * magnitudes[first + tap]);
                *value = (taps.fold(0.0, |sum, part| sum + part) + step.log_offset).ln();
            }
        }
    }
}

fn magnitudes(samples: &[f32], window: &[f32], turns: &[Complex]) -> Vec<f32> {
    let value = |at: usize| samples.get(at).map_or(0.0, |sample| sample * window[at]);
    let mut data: Vec<Complex> = (0..HALF).map(|at| [value(2 * at), value(2 * at + 1)]).collect();
    let mut span = 1;
    while span < HALF {
        let mut next = vec![[0.0; 2]; HALF];
        for lane in 0..LANES {
            let within = lane % span;
            let turn = within * (128 / span);
            let a = data[lane];
            let b = times(data[lane + LANES], turns[turn]);
            let c = times(data[lane + 2 * LANES], turns[2 * turn]);
            let d = times(data[lane + 3 * LANES], turns[3 * turn]);
            let (sum_ac, rest_ac) = (plus(a, c), minus(a, c));
            let (sum_bd, rest_bd) = (plus(b, d), turned(minus(b, d)));
            let to = (lane - within) * 4 + within;
            next[to] = plus(sum_ac, sum_bd);
            next[to + span] = plus(rest_ac, rest_bd);
            next[to + 2 * span] = minus(sum_ac, sum_bd);
            next[to + 3 * span] = minus(rest_ac, rest_bd);
        }
        data = next;
        span *= 4;
    }
    let magnitude = |bin: usize| {
        let (one, other) = (data[bin % HALF], data[(HALF - bin) % HALF]);
        let even = [0.5 * (one[0] + other[0]), 0.5 * (one[1] - other[1])];
        let odd = [0.5 * (one[1] + other[1]), 0.5 * (other[0] - one[0])];
        let [re, im] = plus(even, times(odd, turns[bin]));
        (re * re + im * im).sqrt()
    };
    (0..=HALF).map(magnitude).collect()
}
