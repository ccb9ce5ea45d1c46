//! The data directory: where node and client of one machine find each other.
//!
//! ```text
//! DATA/node.lock           held by the running node
//! DATA/node.json           its addresses and process id; removed when it stops
//! DATA/certificates/       ca, node and client bundles (development ones are made on first start)
//! DATA/service-times.json  what was learned about how long models take
//! DATA/events/             the log of scheduling decisions, if one is kept
//! DATA/spool/              media files of running sessions; emptied at start
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a running node tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    pub name: String,
    pub pid: u32,
    pub api: SocketAddr,
    pub cluster: SocketAddr,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    root: PathBuf,
}

/// What is wrong with the data directory.
#[derive(Debug, Error)]
pub enum DataError {
    #[error("data directory {path}: {source}; choose another with --data or SENSORIUM_DATA")]
    Create { path: PathBuf, source: io::Error },
    #[error("another node (process {pid}) runs on the data directory {path}; stop it or use another with --data")]
    Locked { path: PathBuf, pid: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: not what a node writes ({reason}); remove it if no node runs")]
    Corrupt { path: PathBuf, reason: String },
}

/// Proof that this process is the only node on a data directory.
pub struct DataLock {
    _file: File,
    node_file: PathBuf,
}

impl Drop for DataLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.node_file);
    }
}

impl DataDirectory {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        self.root.join("certificates")
    }

    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    #[must_use]
    pub fn service_times(&self) -> PathBuf {
        self.root.join("service-times.json")
    }

    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    fn node_file(&self) -> PathBuf {
        self.root.join("node.json")
    }

    /// Makes the directory, takes its lock and empties the spool.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn lock(&self) -> Result<DataLock, DataError> {
        let create = |source| DataError::Create { path: self.root.clone(), source };
        fs::create_dir_all(&self.root).map_err(create)?;
        let path = self.root.join("node.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(create)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid =
                    self.find_node().ok().flatten().map_or_else(|| "unknown".to_owned(), |node| node.pid.to_string());
                return Err(DataError::Locked { path: self.root.clone(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(DataError::File { path, source }),
        }
        let spool = self.spool();
        match fs::remove_dir_all(&spool) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DataError::File { path: spool, source });
            }
            _ => fs::create_dir_all(&spool).map_err(|source| DataError::File { path: spool, source })?,
        }
        Ok(DataLock { _file: file, node_file: self.node_file() })
    }

    /// Tells clients where the node is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&self, node: &NodeFile) -> Result<(), DataError> {
        let path = self.node_file();
        let json = serde_json::to_vec_pretty(node).unwrap_or_default();
        // Written beside and renamed, so that a reader never sees half of it.
        let fresh = path.with_extension("json.new");
        fs::write(&fresh, json)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| DataError::File { path, source })
    }

    /// The node that runs here; `None` when there is none.
    ///
    /// # Errors
    /// When the file is there but cannot be understood.
    pub fn find_node(&self) -> Result<Option<NodeFile>, DataError> {
        let path = self.node_file();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataError::File { path, source }),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| DataError::Corrupt { path, reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_at_a_time_and_clients_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(&folder.path().join("a"));
        assert_eq!(data.find_node().unwrap(), None);
        let lock = data.lock().unwrap();
        let local = "127.0.0.1:7".parse().unwrap();
        let node = NodeFile { name: "n".to_owned(), pid: 4711, api: local, cluster: local };
        data.announce(&node).unwrap();
        assert_eq!(data.find_node().unwrap(), Some(node));
        assert!(data.lock().err().unwrap().to_string().contains("4711"));
        drop(lock);
        assert_eq!(data.find_node().unwrap(), None);
        assert!(data.lock().is_ok());
    }
}
