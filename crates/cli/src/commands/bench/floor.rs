//! `sensorium bench floor`: what the way costs without Sensorium on it, measured on this machine now.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use bytes::Bytes;
use hdrhistogram::Histogram;
use sensorium_transport::{ALPN_API, Dialer, Listener, Liveness, pki};
use serde_json::json;

use crate::arguments::BenchFloorArguments;
use crate::error::Outcome;
use crate::paths::Paths;
use crate::show::micros;

/// Longest UDP payload of the round trip; larger ones are only measured over QUIC, in bytes.
const UDP_BYTES_MAX: u32 = 60_000;

pub(super) fn run(paths: &Paths, arguments: &BenchFloorArguments) -> Outcome {
    if arguments.rounds == 0 || arguments.rounds > 1_000_000 {
        bail!("--rounds {}: 1 to 1000000 is expected", arguments.rounds);
    }
    let udp = (arguments.bytes <= UDP_BYTES_MAX).then(|| udp(arguments)).transpose()?;
    let quic = quic(paths, arguments)?;
    let at = |histogram: &Histogram<u64>, quantile| micros(histogram.value_at_quantile(quantile));
    if arguments.json {
        println!(
            "{}",
            json!({
                "bytes": arguments.bytes,
                "udp_p50_us": udp.as_ref().map(|udp| at(udp, 0.5)),
                "udp_p99_us": udp.as_ref().map(|udp| at(udp, 0.99)),
                "quic_p50_us": at(&quic, 0.5),
                "quic_p99_us": at(&quic, 0.99),
            })
        );
    } else {
        if let Some(udp) = &udp {
            println!("UDP round trip of {} bytes: p50 {} µs, p99 {} µs", arguments.bytes, at(udp, 0.5), at(udp, 0.99));
        }
        println!(
            "QUIC, {} bytes one way and one byte back: p50 {} µs, p99 {} µs",
            arguments.bytes,
            at(&quic, 0.5),
            at(&quic, 0.99)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000_000, 3)?)
}

/// Two threads, two sockets, blocking.
fn udp(arguments: &BenchFloorArguments) -> anyhow::Result<Histogram<u64>> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    let bytes = arguments.bytes.max(1) as usize;
    let echo = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = far.recv(&mut buffer) {
            let _ = far.send(&buffer[..count]);
        }
    });
    let (payload, mut buffer, mut latencies) = (vec![7; bytes], vec![0; 65_536], histogram()?);
    for round in 0..arguments.rounds + arguments.rounds / 10 {
        let began = Instant::now();
        near.send(&payload)?;
        near.recv(&mut buffer)?;
        if round >= arguments.rounds / 10 {
            latencies.record(u64::try_from(began.elapsed().as_nanos())?.max(1))?;
        }
    }
    near.send(&[])?;
    let _ = echo.join();
    Ok(latencies)
}

/// The same endpoints and settings that node and client use, with nothing behind them: bytes in, copied once, one byte
/// back.
fn quic(paths: &Paths, arguments: &BenchFloorArguments) -> anyhow::Result<Histogram<u64>> {
    let certificates = pki::development(&paths.data.certificates(), &[])?;
    let bytes = arguments.bytes.max(1) as usize;
    let (address_out, address_in) = std::sync::mpsc::channel();
    let node = certificates.node.clone();
    let server = std::thread::spawn(move || {
        super::super::block_on(async move {
            let listener = Listener::bind("127.0.0.1:0".parse()?, &node, &[ALPN_API], Liveness::API)?;
            let _ = address_out.send(listener.address()?);
            let Some(connecting) = listener.accept().await else { return anyhow::Ok(()) };
            let connection = connecting.await?;
            let (mut send, mut recv) = connection.accept_bi().await?;
            let (mut slot, mut filled) = (vec![0; bytes], 0);
            let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
            while let Ok(Some(count)) = recv.read_chunks(&mut chunks).await {
                for chunk in &chunks[..count] {
                    slot[filled..filled + chunk.len()].copy_from_slice(chunk);
                    filled += chunk.len();
                    if filled == bytes {
                        filled = 0;
                        send.write_all(&[1]).await?;
                    }
                }
            }
            Ok(())
        })
    });
    let address = address_in.recv()?;
    let latencies = super::super::block_on(async {
        let dialer = Dialer::new(&certificates.client, ALPN_API, Liveness::API, false)?;
        let connection = dialer.dial(address)?.await?;
        let (mut send, mut recv) = connection.open_bi().await?;
        let (payload, mut latencies) = (Bytes::from(vec![7; bytes]), histogram()?);
        // Large transfers are slow: a second's worth of them is enough.
        let rounds = arguments.rounds.min((2_000_000_000 / arguments.bytes.max(1)).max(50));
        let mut one = [0];
        for round in 0..rounds + rounds / 10 {
            let began = Instant::now();
            send.write_chunk(payload.clone()).await?;
            recv.read_exact(&mut one).await?;
            if round >= rounds / 10 {
                latencies.record(u64::try_from(began.elapsed().as_nanos())?.max(1))?;
            }
        }
        connection.close(0_u32.into(), b"done");
        dialer.settle().await;
        anyhow::Ok(latencies)
    })??;
    let _ = server.join();
    Ok(latencies)
}
