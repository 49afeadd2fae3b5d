//! Parts of a request besides its command: the dataset, the password, the handle in a ticket. None
//! of it can be trusted.

use arrow_flight::Ticket;
use arrow_flight::sql::{Any, Command};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::DATASET_HEADER;

/// Go's client leaves out the padding of a user and password; others write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The ticket of a statement that is not prepared.
#[derive(Serialize, Deserialize)]
pub(super) struct Handle {
    /// Random, so that nobody can cancel the query of another client.
    pub(super) id: [u8; 16],
    pub(super) dataset: Option<String>,
    pub(super) sql: String,
}

/// Returns the dataset that a client names in a header.
pub(super) fn dataset(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    let Some(name) = metadata.get(DATASET_HEADER) else { return Ok(None) };
    let name =
        name.to_str().map_err(|_| Status::invalid_argument("the header `dataset` is not text"))?;
    Ok(Some(name.to_owned()).filter(|name| !name.is_empty()))
}

pub(super) fn no_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => Err(Status::unimplemented(
            "transactions are not supported, because this service only reads",
        )),
        _ => Ok(()),
    }
}

/// Returns the password of `authorization: Basic`.
pub(super) fn password(metadata: &MetadataMap) -> Option<String> {
    let (scheme, given) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let decoded =
        scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(given.trim()).ok())??;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_owned())
}

/// Returns the handle by which the client knows a query: the one in its ticket.
pub(super) fn handle_of(ticket: &Ticket) -> Option<Bytes> {
    match Command::try_from(Any::decode(&*ticket.ticket).ok()?).ok()? {
        Command::TicketStatementQuery(ticket) => Some(ticket.statement_handle),
        Command::CommandPreparedStatementQuery(query) => Some(query.prepared_statement_handle),
        _ => None,
    }
}

/// Decodes a message of the protocol.
pub(super) fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    M::decode(bytes)
        .map_err(|error| Status::invalid_argument(format!("cannot read the request: {error}")))
}
