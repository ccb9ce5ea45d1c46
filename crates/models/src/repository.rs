//! Model packages on disk: a folder each, with a `model.toml`; weights beside it or in a folder of their own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::labels;
use crate::manifest::{FileEntry, FileRole, Manifest, Precision};
use crate::signature::{self, Signature};
use crate::stages;

/// Longest `model.toml`, in bytes.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 10;

/// All models that were found, and those that cannot be used, each with the reason.
#[derive(Debug, Default)]
pub struct Repository {
    pub models: BTreeMap<String, ModelPackage>,
    /// Folder name and error. One broken model does not hide the others.
    pub broken: Vec<(String, ModelError)>,
}

/// A model: its manifest and where its files are.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPackage {
    pub manifest: Manifest,
    pub folder: PathBuf,
    /// Where each file is, or, when nobody has put it there yet, where it is looked for last.
    pub files: BTreeMap<FileRole, PathBuf>,
    /// What these files compute in: `fp32`, unless it came from [`Self::in_precision`].
    pub precision: Precision,
    /// The same for the files of each variant.
    variants: BTreeMap<Precision, BTreeMap<FileRole, PathBuf>>,
}

impl Repository {
    /// Reads every sub-folder of `dirs` that holds a `model.toml`. A model's files are looked for in its own folder, then
    /// in `weights_dir/NAME`. A name that comes twice is taken from the first folder; the second is reported.
    ///
    /// Files are neither read nor required here: see [`ModelPackage::verify`].
    ///
    /// # Errors
    /// When one of `dirs` cannot be listed. What is wrong with a single model is in [`Repository::broken`].
    pub fn open(dirs: &[PathBuf], weights_dir: &Path) -> Result<Self, ModelError> {
        let mut repository = Self::default();
        for dir in dirs {
            let unreadable = |source| ModelError::Read { file: dir.clone(), source };
            let mut folders = fs::read_dir(dir)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
                .map_err(unreadable)?;
            folders.sort();
            for folder in folders.into_iter().filter(|folder| folder.join("model.toml").exists()) {
                repository.add(&folder, weights_dir);
            }
        }
        repository.check_rows();
        Ok(repository)
    }

    /// Sets models aside whose row of stages does not hold together; those before them in the row follow.
    fn check_rows(&mut self) {
        let wrong = |(name, package): (&String, &ModelPackage)| {
            stages::check(package, &self.models).err().map(|error| (name.clone(), error))
        };
        let broken: Vec<_> = self.models.iter().filter_map(wrong).collect();
        for (name, error) in broken {
            self.models.remove(&name);
            self.broken.push((name, error));
        }
    }

    fn add(&mut self, folder: &Path, weights_dir: &Path) {
        let folder_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let package = ModelPackage::open(folder, weights_dir).and_then(|package| {
            let name = package.manifest.name.clone();
            match self.models.get(&name) {
                None => Ok((name, package)),
                Some(first) => {
                    Err(ModelError::Duplicate { file: package.manifest_file(), name, first: first.folder.clone() })
                }
            }
        });
        match package {
            Ok((name, package)) => {
                self.models.insert(name, package);
            }
            Err(error) => self.broken.push((folder_name, error)),
        }
    }
}

impl ModelPackage {
    /// Reads and checks the manifest in `folder` and finds the model's files.
    ///
    /// # Errors
    /// [`ModelError`] with file, field and what was expected.
    pub fn open(folder: &Path, weights_dir: &Path) -> Result<Self, ModelError> {
        let file = folder.join("model.toml");
        let manifest = Manifest::parse(&read_text(&file)?, &file)?;
        if folder.file_name().is_none_or(|name| name.to_str() != Some(&manifest.name)) {
            let problem = format!("{} differs from the folder's name", manifest.name);
            return Err(ModelError::Field { file, field: "name".to_owned(), problem });
        }
        let find = |entry: &FileEntry| {
            let beside = folder.join(&entry.path);
            let path = if beside.exists() { beside } else { weights_dir.join(&manifest.name).join(&entry.path) };
            (entry.role, path)
        };
        let files = manifest.files.iter().map(find).collect();
        let variants = manifest.variants.iter().map(|variant| (variant.name, variant.files.iter().map(find).collect()));
        let variants = variants.collect();
        Ok(Self { files, folder: folder.to_owned(), precision: Precision::Fp32, variants, manifest })
    }

    /// The model with its networks for `precision`, and that alone: what [`Self::verify`] and [`Self::file`] then look at are
    /// the variant's files. `None` when the manifest lists none.
    #[must_use]
    pub fn in_precision(&self, precision: Precision) -> Option<Self> {
        let mut package = self.clone();
        if precision == self.precision {
            return Some(package);
        }
        let entry = self.manifest.variants.iter().find(|variant| variant.name == precision)?;
        for file in &entry.files {
            if let Some(own) = package.manifest.files.iter_mut().find(|own| own.role == file.role) {
                own.clone_from(file);
            }
        }
        let found = self.variants.get(&precision)?;
        package.files.extend(found.iter().map(|(role, path)| (*role, path.clone())));
        package.precision = precision;
        Some(package)
    }

    /// Where the manifest is.
    #[must_use]
    pub fn manifest_file(&self) -> PathBuf {
        self.folder.join("model.toml")
    }

    /// The path of the file with `role`.
    ///
    /// # Errors
    /// [`ModelError::NoSuchFile`] when the manifest lists none.
    pub fn file(&self, role: FileRole) -> Result<&Path, ModelError> {
        let missing = || ModelError::NoSuchFile { model: self.manifest.name.clone(), role };
        self.files.get(&role).map(PathBuf::as_path).ok_or_else(missing)
    }

    /// Reads every file and compares its SHA-256 with the manifest's.
    ///
    /// # Errors
    /// The first file that is missing, cannot be read or differs.
    pub fn verify(&self) -> Result<(), ModelError> {
        for entry in &self.manifest.files {
            let file = self.file(entry.role)?;
            let actual = sha256(file).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => ModelError::Missing { file: file.to_owned(), role: entry.role },
                _ => ModelError::Read { file: file.to_owned(), source },
            })?;
            if actual != entry.sha256 {
                return Err(ModelError::Digest { file: file.to_owned(), expected: entry.sha256.clone(), actual });
            }
        }
        Ok(())
    }

    /// Checks what the manifest says about the network with `role` against what the network really takes and gives.
    ///
    /// # Errors
    /// [`ModelError::Signature`] with the first difference.
    pub fn check(&self, role: FileRole, signature: &Signature) -> Result<(), ModelError> {
        signature::check(&self.manifest, &self.manifest_file(), self.file(role)?, role, signature)
    }

    /// The class names, by class.
    ///
    /// # Errors
    /// When the model has no label file or it cannot be used; see [`labels::read`].
    pub fn labels(&self) -> Result<Vec<String>, ModelError> {
        labels::read(self.file(FileRole::Labels)?)
    }
}

fn read_text(file: &Path) -> Result<String, ModelError> {
    let unreadable = |source| ModelError::Read { file: file.to_owned(), source };
    let mut text = String::new();
    let handle = File::open(file).map_err(unreadable)?;
    let bytes = handle.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)? as u64;
    if bytes > MANIFEST_BYTES_MAX {
        return Err(ModelError::TooLarge { file: file.to_owned(), bytes, bytes_max: MANIFEST_BYTES_MAX });
    }
    Ok(text)
}

fn sha256(file: &Path) -> io::Result<String> {
    let mut handle = File::open(file)?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match handle.read(&mut chunk) {
            Ok(0) => return Ok(hex::encode(digest.finalize())),
            Ok(bytes) => digest.update(&chunk[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
