//! Volumes that are plain files.

use crate::{ApiError, Volume, Work};
use serde::{Deserialize, Serialize};
use types::{FileDriver, FileFormat};
use utoipa::ToSchema;

/// The image file that is a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Absolute path on the daemon's host.
    pub path: String,
    /// What is in it.
    #[schema(value_type = String, example = "raw")]
    pub format: FileFormat,
    /// How it is read and written: `threads` or `io_uring`.
    #[schema(value_type = String, example = "threads")]
    pub driver: FileDriver,
}

/// A volume is to be a plain file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// The directory in which `INSTANCE/DISK` is: relative to the store's own directory for image files, or absolute and within one that
    /// the configuration allows. Default: the store's own.
    #[serde(default)]
    pub directory: Option<String>,
    /// Default: raw; of a file that is there, what it is.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub format: Option<FileFormat>,
    /// Default: threads.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub driver: Option<FileDriver>,
    /// Take the file that is there, as it is; do not make one.
    #[serde(default)]
    pub reuse: bool,
}

/// Where a volume's data are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// In a file; absent: in the store.
    #[serde(default)]
    pub file: Option<FileSpec>,
    /// Leave the file when the volume goes into the store.
    #[serde(default)]
    pub keep: bool,
}

/// Takes an image file into Holdfast's care: it moves to where its volume's name says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// The volume's name; it must not exist.
    pub name: String,
    /// The file: absolute and within a directory that is allowed, or relative to the store's own directory for image files.
    pub path: String,
    /// See [`FileSpec::directory`]; must be on the same file system.
    #[serde(default)]
    pub directory: Option<String>,
    /// Default: what it is.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub format: Option<FileFormat>,
    /// Default: threads.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub driver: Option<FileDriver>,
}

/// Gives a volume's file out of Holdfast's care: it moves, and the volume is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Where the file goes: as [`Adopt::path`]. Default: its directory for image files, under the volume's name.
    #[serde(default)]
    pub path: Option<String>,
}

/// Where a file went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Released {
    /// The volume that is forgotten.
    pub name: String,
    /// Its file now; absolute.
    pub path: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// A volume cannot be used, or not as the catalog says.
    Error,
    /// Something is not as it should be, and harms nobody yet.
    Warning,
}

/// Something that is not as the catalog says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `ERROR` or `WARNING`.
    #[serde(rename = "type")]
    pub severity: Severity,
    /// What it is, for programs: `EFILE…`.
    pub code: String,
    /// The volume, or the file if there is no volume.
    pub object: String,
    /// What it is, for people.
    pub message: String,
}

impl std::fmt::Display for Finding {
    /// `type:code:object:message`, of which only the last may have a colon in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
        };
        let object = self.object.replace(':', "%3A");
        write!(f, "{severity}:{}:{object}:{}", self.code, self.message)
    }
}

/// What a verification of the volumes that are files found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Volumes that were looked at.
    pub volumes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether anything found is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.severity == Severity::Error)
    }
}

/// What the daemon can do with volumes that are plain files, beside what it can do with all.
#[expect(
    clippy::missing_errors_doc,
    reason = "every verb fails with an ApiError whose code says what to do"
)]
pub trait FileControl: Send + Sync {
    /// Removes a volume and leaves its file; `force` also when clients have it open.
    fn forget_volume(&self, name: &str, force: bool) -> Result<Released, ApiError>;
    /// Moves a volume's data into a file or into the store.
    fn convert_volume(
        &self,
        name: &str,
        request: &Convert,
        work: Work<'_>,
    ) -> Result<Volume, ApiError>;
    /// Takes a file.
    fn adopt_volume(&self, request: &Adopt) -> Result<Volume, ApiError>;
    /// Gives one away.
    fn release_volume(&self, name: &str, request: &Release) -> Result<Released, ApiError>;
    /// Compares files with the catalog. Reads no more than their beginnings.
    fn verify(&self) -> Result<VerifyReport, ApiError>;
}
