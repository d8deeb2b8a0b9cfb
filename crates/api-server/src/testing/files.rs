//! Plain files, of which the daemon in memory has the names only.

use super::FakeControl;
use api_types::{
    Adopt, ApiError, Control, Convert, ErrorCode, FileControl, FileInfo, Finding, Release,
    Released, Severity, VerifyReport, Volume, Work,
};
use types::FileFormat;

fn no_file(name: &str) -> ApiError {
    ApiError::new(ErrorCode::Refused, format!("'{name}' is no plain file"))
}

impl FakeControl {
    fn set_file(&self, name: &str, path: Option<String>) -> Result<Volume, ApiError> {
        let mut state = self.state.lock();
        let missing = || ApiError::new(ErrorCode::NotFound, format!("no volume {name}"));
        let held = state.volumes.get_mut(name).ok_or_else(missing)?;
        held.volume.file = path.map(|path| FileInfo {
            path,
            format: FileFormat::Raw,
            driver: Default::default(),
        });
        Ok(held.volume.clone())
    }
}

impl FileControl for FakeControl {
    fn forget_volume(&self, name: &str, _force: bool) -> Result<Released, ApiError> {
        self.release_volume(name, &Release::default())
    }

    fn convert_volume(
        &self,
        name: &str,
        request: &Convert,
        work: Work<'_>,
    ) -> Result<Volume, ApiError> {
        self.pass(work)?;
        self.set_file(
            name,
            request.file.as_ref().map(|_| format!("/files/{name}")),
        )
    }

    fn adopt_volume(&self, request: &Adopt) -> Result<Volume, ApiError> {
        self.add(&request.name, 1 << 20, Vec::new())?;
        self.set_file(&request.name, Some(request.path.clone()))
    }

    fn release_volume(&self, name: &str, request: &Release) -> Result<Released, ApiError> {
        let file = self.volume(name)?.file.ok_or_else(|| no_file(name))?;
        self.state.lock().volumes.remove(name);
        Ok(Released {
            name: name.to_owned(),
            path: request.path.clone().unwrap_or(file.path),
        })
    }

    fn verify(&self) -> Result<VerifyReport, ApiError> {
        let volumes = self.volumes()?;
        let files = volumes.iter().filter(|volume| volume.file.is_some());
        let findings = files.map(|volume| Finding {
            severity: Severity::Error,
            code: "EFILEMISSING".to_owned(),
            object: volume.name.clone(),
            message: "the file is not there".to_owned(),
        });
        Ok(VerifyReport {
            volumes: volumes.len() as u64,
            findings: findings.collect(),
        })
    }
}
