//! The NUT reader against ffprobe.

use sensorium_processing::nut::{Codec, NutDemuxer, NutItem, Packet, StreamHeader, StreamKind};

use crate::ffmpeg::{cached, ffmpeg, ffprobe};

/// Everything in a file that is pushed in pieces of `piece` bytes.
fn read(file: &[u8], piece: usize) -> (Vec<StreamHeader>, Vec<Packet>) {
    let mut demuxer = NutDemuxer::default();
    let (mut streams, mut packets) = (Vec::new(), Vec::new());
    for bytes in file.chunks(piece) {
        demuxer.push(bytes);
        while let Some(item) = demuxer.next().unwrap() {
            match item {
                NutItem::Stream(stream) => streams.push(stream),
                NutItem::Packet(packet) => packets.push(packet),
            }
        }
    }
    demuxer.finish().unwrap();
    (streams, packets)
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

/// Streams, times, sizes, flags and contents are what ffprobe says.
fn agrees(file: &[u8]) -> (Vec<StreamHeader>, Vec<Packet>) {
    let (streams, packets) = read(file, 65_536);
    let probed = ffprobe(file, "-show_streams -show_packets -show_data_hash adler32");
    let expected = probed["packets"].as_array().unwrap();
    assert_eq!(packets.len(), expected.len());
    for (packet, expected) in packets.iter().zip(expected) {
        assert_eq!(i64::from(packet.stream), expected["stream_index"].as_i64().unwrap());
        assert_eq!(packet.pts, expected["pts"].as_i64().unwrap());
        assert_eq!(packet.payload.len().to_string(), expected["size"].as_str().unwrap());
        assert_eq!(packet.key, expected["flags"].as_str().unwrap().starts_with('K'));
        assert_eq!(format!("adler32:{:08x}", adler32(&packet.payload)), expected["data_hash"].as_str().unwrap());
        let seconds: f64 = expected["pts_time"].as_str().unwrap().parse().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "seconds of a short file")]
        let found = packet.pts_ns as f64 / 1e9;
        assert!((found - seconds).abs() < 1e-6, "{found} instead of {seconds}");
    }
    let expected = probed["streams"].as_array().unwrap();
    assert_eq!(streams.len(), expected.len());
    for (stream, expected) in streams.iter().zip(expected) {
        let (num, den) = stream.time_base;
        assert_eq!(format!("{num}/{den}"), expected["time_base"].as_str().unwrap());
        let tag = u32::from_le_bytes(stream.fourcc);
        let expected_tag = expected["codec_tag"].as_str().unwrap().trim_start_matches("0x");
        assert_eq!(tag, u32::from_str_radix(expected_tag, 16).unwrap());
        match stream.kind {
            StreamKind::Video { width, height } => {
                assert_eq!(Some(u64::from(width)), expected["width"].as_u64());
                assert_eq!(Some(u64::from(height)), expected["height"].as_u64());
            }
            StreamKind::Audio { sample_rate_hz, channels } => {
                assert_eq!(sample_rate_hz.to_string(), expected["sample_rate"].as_str().unwrap());
                assert_eq!(Some(u64::from(channels)), expected["channels"].as_u64());
            }
            StreamKind::Other => panic!("neither sound nor pictures"),
        }
    }
    (streams, packets)
}

#[test]
fn pictures_and_sound_as_a_session_asks_for_them() {
    let file = ffmpeg(
        "-f lavfi -i testsrc=size=64x48:rate=30000/1001:duration=2 -f lavfi -i sine=sample_rate=48000:duration=2 \
         -c:v rawvideo -pix_fmt rgb24 -c:a pcm_s16le -ar 16000 -f nut",
    );
    let (streams, packets) = agrees(&file);
    assert_eq!(streams[0].codec, Codec::Rgb24);
    assert_eq!(streams[1].codec, Codec::PcmI16);
    assert!(packets.iter().filter(|packet| packet.stream == 0).all(|packet| packet.payload.len() == 64 * 48 * 3));
    let samples: usize =
        packets.iter().filter(|packet| packet.stream == 1).map(|packet| packet.payload.len() / 2).sum();
    assert_eq!(samples, 32_000);
    for piece in [1, 7, 1_000, file.len()] {
        assert_eq!(read(&file, piece), (streams.clone(), packets.clone()), "pieces of {piece} bytes");
    }
}

#[test]
fn floating_point_sound_in_stereo() {
    let file = ffmpeg("-f lavfi -i sine=sample_rate=44100:duration=1 -ac 2 -c:a pcm_f32le -f nut");
    let (streams, _) = agrees(&file);
    assert_eq!(streams[0].codec, Codec::PcmF32);
    assert_eq!(streams[0].kind, StreamKind::Audio { sample_rate_hz: 44_100, channels: 2 });
}

#[test]
fn gaps_and_late_starts_keep_their_times() {
    let file = ffmpeg(
        "-f lavfi -i testsrc=size=16x16:rate=10:duration=60 -f lavfi -i sine=duration=2 -filter_complex \
         [0:v]select='lt(n,3)+between(n,200,203)+gt(n,590)',setpts=PTS+7/TB[v] \
         -map [v] -map 1:a -vsync passthrough -c:v rawvideo -pix_fmt rgb24 -c:a pcm_s16le -f nut",
    );
    let (_, packets) = agrees(&file);
    let last = packets.iter().filter(|packet| packet.stream == 0).map(|packet| packet.pts_ns).max().unwrap();
    assert!(last > 60_000_000_000, "{last}");
}

#[test]
fn compressed_streams_are_handed_over_too() {
    // Short frames whose beginning is left out, and frames that are no key frames.
    let file = ffmpeg(
        "-f lavfi -i testsrc=size=64x48:rate=25:duration=2 -f lavfi -i sine=duration=2 -c:v mpeg4 -bf 2 -g 10 -c:a mp2 -f nut",
    );
    let (streams, packets) = agrees(&file);
    assert!(streams.iter().all(|stream| stream.codec == Codec::Other));
    assert!(packets.iter().any(|packet| !packet.key));
}

#[test]
fn without_syncpoints() {
    let file = ffmpeg(
        "-f lavfi -i testsrc=size=64x48:rate=25:duration=2 -c:v rawvideo -pix_fmt rgb24 -strict experimental -syncpoints none -f nut",
    );
    agrees(&file);
}

#[test]
fn a_real_camera() {
    let Some(film) = cached("media/vtest.avi") else { return };
    let file = ffmpeg(&format!("-t 2 -i {} -c:v rawvideo -pix_fmt rgb24 -f nut", film.display()));
    let (streams, packets) = agrees(&file);
    assert_eq!(streams[0].kind, StreamKind::Video { width: 768, height: 576 });
    assert_eq!(packets.len(), 20);
}
