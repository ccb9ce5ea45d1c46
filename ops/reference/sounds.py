"""Sound, and what the networks make of it: speech probabilities, kinds of sound, text. numpy only."""

import json
import re
import wave

import numpy as np

SAMPLE_RATE_HZ = 16_000


def read_wav(path, start=0, length=None):
    """Samples of a 16 kHz mono 16-bit WAV file as float32, -1 to 1."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE_HZ, 1, 2), path
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    samples = samples[start:] if length is None else samples[start : start + length]
    return samples.astype(np.float32) / np.float32(32768)


def cut_windows(samples, step):
    """Full windows [N, window_samples] of a manifest's `prepare` table with `step = "windows"`."""
    size, hop = step["window_samples"], step["hop_samples"]
    return np.stack([samples[start : start + size] for start in range(0, len(samples) - size + 1, hop)])


def speech_probabilities(session, samples, step):
    """Probability of speech for each window; the last one is filled up with silence."""
    window, context_samples = step["window_samples"], step["context_samples"]
    samples = np.pad(samples, (0, -len(samples) % window))
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(context_samples, np.float32)
    rate = np.array(step["sample_rate_hz"], np.int64)
    probabilities = []
    for chunk in samples.reshape(-1, window):
        sound = np.concatenate([context, chunk])[None]
        output, state = session.run(["output", "stateN"], {"input": sound, "state": state, "sr": rate})
        context = chunk[-context_samples:]
        probabilities.append(float(output[0, 0]))
    return probabilities


class Transcriber:
    """Greedy decoding with an encoder and a merged decoder, step by step with a key-value cache."""

    def __init__(self, encoder, decoder, tokenizer_path, step):
        self.encoder, self.decoder, self.step = encoder, decoder, step
        tokenizer = json.loads(tokenizer_path.read_text())
        self.pieces = {number: piece for piece, number in tokenizer["model"]["vocab"].items()}
        self.special = {token["id"] for token in tokenizer["added_tokens"] if token.get("special")}
        self.output_names = [output.name for output in decoder.get_outputs()]

    def tokens(self, samples):
        """Token numbers, without the start and with the end token if it came in time."""
        step = self.step
        (hidden,) = self.encoder.run(["last_hidden_state"], {"input_values": samples[None]})
        empty = np.zeros((1, step["heads"], 0, step["head_size"]), np.float32)
        past = {
            f"past_key_values.{layer}.{part}.{kind}": empty
            for layer in range(step["layers"])
            for part in ("decoder", "encoder")
            for kind in ("key", "value")
        }
        limit = max(step["tokens_min"], int(len(samples) / SAMPLE_RATE_HZ * step["tokens_per_second_max"]))
        token, tokens = step["start_token"], []
        while len(tokens) < limit and token != step["end_token"]:
            first = not tokens
            inputs = {
                "input_ids": np.array([[token]], np.int64),
                "encoder_hidden_states": hidden,
                "use_cache_branch": np.array([not first]),
            }
            outputs = dict(zip(self.output_names, self.decoder.run(None, inputs | past)))
            for name in past:
                # The encoder's keys and values are computed in the first step only; later they come back empty.
                if first or ".decoder." in name:
                    past[name] = outputs[name.replace("past_key_values", "present")]
            token = int(outputs["logits"][0, -1].argmax())
            tokens.append(token)
        return tokens

    def text(self, tokens):
        """The text of tokens: pieces joined, bytes assembled, the word mark U+2581 as a space."""
        data = b""
        for token in tokens:
            piece = self.pieces.get(token, "")
            if token in self.special:
                continue
            if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
                data += bytes([int(piece[3:5], 16)])
            else:
                data += piece.replace("\u2581", " ").encode()
        return data.decode("utf-8", "replace").strip()


def normalise(text):
    """Lower-case words without punctuation; hyphens part words and "Mr." is read out."""
    text = text.lower().replace("mr.", "mister").replace("-", " ")
    return " ".join(re.sub(r"[^a-z' ]", " ", text).split())


def word_errors(heard, spoken):
    """Insertions, deletions and substitutions between two texts, counted in words."""
    heard, spoken = heard.split(), spoken.split()
    row = list(range(len(spoken) + 1))
    for index, word in enumerate(heard, 1):
        previous, row[0] = row[0], index
        for column, other in enumerate(spoken, 1):
            previous, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, previous + (word != other))
    return row[-1]
