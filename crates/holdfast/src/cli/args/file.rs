//! What the command line says of volumes that are plain files.

use clap::Args;

/// Where a volume's data are: `store`, or `file[:DIRECTORY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// In the store.
    Store,
    /// In a file, in this directory or the store's own.
    File(Option<String>),
}

impl std::str::FromStr for Backend {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "store" => Ok(Backend::Store),
            None if s == "file" => Ok(Backend::File(None)),
            Some(("file", dir)) if !dir.is_empty() => Ok(Backend::File(Some(dir.to_owned()))),
            _ => Err("store, file or file:DIRECTORY".to_owned()),
        }
    }
}

/// What can be chosen for volumes that are plain files.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FileOptions {
    /// What is in the file: raw or qcow2. Default: raw, or what the file is.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) file_format: Option<types::FileFormat>,
    /// How the file is read and written: threads or io_uring. Default: threads.
    #[arg(long, value_name = "DRIVER")]
    pub(crate) driver: Option<types::FileDriver>,
}

impl FileOptions {
    /// What the API is asked for; none if the data are to be in the store.
    pub(crate) fn spec(
        self,
        backend: Backend,
        reuse: bool,
    ) -> Result<Option<api_types::FileSpec>, String> {
        match backend {
            Backend::File(directory) => Ok(Some(api_types::FileSpec {
                directory,
                format: self.file_format,
                driver: self.driver,
                reuse,
            })),
            Backend::Store if self.file_format.is_none() && self.driver.is_none() && !reuse => {
                Ok(None)
            }
            Backend::Store => {
                Err("--file-format, --driver and --reuse need --backend file".to_owned())
            }
        }
    }
}
