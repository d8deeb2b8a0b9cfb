//! What the API does with volumes that are plain files.

use crate::daemon::{control::Daemon, convert};
use api_types::{
    Adopt, ApiError, Convert, FileControl, Release, Released, VerifyReport, Volume, Work,
};

type Result<T> = std::result::Result<T, ApiError>;

impl FileControl for Daemon {
    fn forget_volume(&self, name: &str, force: bool) -> Result<Released> {
        let record = self.find(name)?;
        let path = self.files.place(Self::file_of(&record)?).to_string();
        self.cut_off(&record.name, force)?;
        let forgotten = self.store.forget_file_volume(&record.name);
        forgotten.map_err(convert::api_error)?;
        Ok(Released {
            name: record.name.to_string(),
            path,
        })
    }

    fn convert_volume(&self, name: &str, request: &Convert, work: Work<'_>) -> Result<Volume> {
        let converted = self.convert(name, request, work)?;
        self.vhost.follow(converted.id);
        self.describe(converted)
    }

    fn adopt_volume(&self, request: &Adopt) -> Result<Volume> {
        self.describe(self.adopt(request)?)
    }

    fn release_volume(&self, name: &str, request: &Release) -> Result<Released> {
        self.release(name, request)
    }

    fn verify(&self) -> Result<VerifyReport> {
        self.verify_files()
    }
}
