//! The project's own models' files.

use sensorium_processing::tokens::Tokenizer;

use crate::ffmpeg::cached;

#[test]
fn the_speech_model_s_tokenizer() {
    let Some(file) = cached("models/moonshine/tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_json(&std::fs::read(file).unwrap()).unwrap();
    // Start, "▁The", "▁family", "▁of", "▁D", "ash", "wood", "▁had", "▁long", "▁been", "▁", two bytes, end.
    let tokens = [1, 450, 3942, 310, 360, 1161, 6115, 750, 1472, 1063, 29_871, 198, 172, 2];
    assert_eq!(tokenizer.decode(&tokens), "The family of Dashwood had long been é");
    // The speech model's own special tokens, and a number that no token has.
    assert_eq!(tokenizer.decode(&[450, 32_767, 32_768]), "The");
}
