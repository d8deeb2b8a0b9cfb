//! What handlers take from requests; each refuses with an [`ErrorBody`](api_types::ErrorBody).

use crate::error::Failure;
use axum::{
    RequestExt,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
};
use serde::de::DeserializeOwned;
use types::VolumeRef;

/// The parts of the path that vary.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Failure))]
pub(crate) struct Path<T>(pub(crate) T);

/// What follows the question mark.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failure))]
pub(crate) struct Query<T>(pub(crate) T);

/// A JSON body. An empty one counts as `{}`; the content type does not matter, for the sake of people with curl.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes: Bytes = request.extract().await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Input)
            .map_err(|e| Failure::invalid(format!("the body does not fit: {e}")))
    }
}

/// `volume` or `volume@snapshot`.
pub(crate) fn volume_ref(text: &str) -> Result<VolumeRef, Failure> {
    text.parse()
        .map_err(|e: types::NameError| Failure::invalid(e.to_string()))
}
