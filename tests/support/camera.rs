//! A camera: one ffmpeg that plays a clip over and over in real time, and a TCP server that gives it to whoever connects and
//! counts them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::{ffmpeg, media};

/// Pieces that wait for one viewer; one that takes none misses the rest.
const PIECES_MAX: usize = 1_024;

/// A TCP port of this machine that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Twelve seconds: a street that stands still, so that whoever looks at it again finds the same people; and two sentences.
pub fn clip(folder: &Path) -> PathBuf {
    let path = folder.join("camera.ts");
    let sentences =
        ["0870", "0880"].map(|number| media(&format!("librivox/sense_and_sensibility_01_austen_64kb-{number}.wav")));
    let still = folder.join("still.png");
    ffmpeg(&["-i", media("vtest.avi").to_str().unwrap(), "-frames:v", "1", still.to_str().unwrap()]);
    let filter = "[1:a]aresample=16000,apad=pad_dur=1[a];[2:a]aresample=16000,apad=pad_dur=1[b];\
                  [a][b]concat=n=2:v=0:a=1,apad=whole_dur=12,atrim=0:12[sound]";
    let [first, second] = sentences.each_ref().map(|path| path.to_str().unwrap());
    ffmpeg(&[
        "-loop",
        "1",
        "-framerate",
        "5",
        "-t",
        "12",
        "-i",
        still.to_str().unwrap(),
        "-i",
        first,
        "-i",
        second,
        "-filter_complex",
        filter,
        "-map",
        "0:v",
        "-map",
        "[sound]",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-g",
        "5",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "mp2",
        "-ac",
        "1",
        "-f",
        "mpegts",
        path.to_str().unwrap(),
    ]);
    path
}

#[derive(Default)]
struct Shared {
    viewers: Mutex<Vec<SyncSender<Vec<u8>>>>,
    open: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
    over: AtomicBool,
}

/// See the module. It ends when this is dropped.
pub struct Camera {
    pub port: u16,
    shared: Arc<Shared>,
    playing: Child,
}

impl Camera {
    pub fn start(clip: &Path, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut playing = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i"])
            .arg(clip)
            .args(["-c", "copy", "-f", "mpegts", "-"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let shared = Arc::new(Shared::default());
        let (mut stream, all) = (playing.stdout.take().unwrap(), Arc::clone(&shared));
        std::thread::spawn(move || {
            let mut piece = [0; 188 * 20];
            while let Ok(()) = stream.read_exact(&mut piece) {
                all.viewers.lock().unwrap().retain(|viewer| {
                    !matches!(viewer.try_send(piece.to_vec()), Err(std::sync::mpsc::TrySendError::Disconnected(_)))
                });
            }
            all.viewers.lock().unwrap().clear();
        });
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for viewer in listener.incoming() {
                if all.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(viewer) = viewer {
                    show(&all, viewer);
                }
            }
        });
        Self { port, shared, playing }
    }

    pub fn uri(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Viewers now, the most at once, and all there ever were.
    pub fn viewers(&self) -> (usize, usize, usize) {
        let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
        (count(&self.shared.open), count(&self.shared.most), count(&self.shared.total))
    }
}

fn show(shared: &Arc<Shared>, mut viewer: TcpStream) {
    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(open, Ordering::SeqCst);
    shared.total.fetch_add(1, Ordering::SeqCst);
    let (sender, pieces) = sync_channel::<Vec<u8>>(PIECES_MAX);
    shared.viewers.lock().unwrap().push(sender);
    let (mut hearing, all) = (viewer.try_clone().unwrap(), Arc::clone(shared));
    std::thread::spawn(move || {
        // Nothing is ever said; the end of it is the end of the viewer.
        while hearing.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        all.open.fetch_sub(1, Ordering::SeqCst);
        let _ = hearing.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        while let Ok(piece) = pieces.recv() {
            if viewer.write_all(&piece).is_err() {
                return;
            }
        }
        let _ = viewer.shutdown(Shutdown::Both);
    });
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = self.playing.kill();
        let _ = self.playing.wait();
        // Wakes the one who waits for viewers, so that the port is free again.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}
