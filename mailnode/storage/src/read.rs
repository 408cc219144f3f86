//! Reading bodies: from the page cache at once, from the disk on a thread that may wait, always checked.

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::prepare::Operation;
use crate::rows::{BlobRow, blob_key};
use crate::shared::Shared;
use crate::threads;
use bytes::Bytes;
use cluster::BlobId;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// A body may be moved by compaction while it is read, but hardly twice.
const TRIES: usize = 4;

/// None if it is not here, or is not what was written.
pub async fn blob(shared: &Arc<Shared>, id: BlobId) -> Result<Option<Bytes>> {
    let mut bad = None;
    for _ in 0..TRIES {
        let Some(row) = row(shared, id)? else { return Ok(None) };
        if bad == Some(row.place) {
            lose(shared, id, &row);
            return Ok(None);
        }
        match read(shared, &row).await {
            Ok(Some(body)) => return Ok(Some(body)),
            // Wrong, or overwritten because it has been moved: the row says which.
            Ok(None) => bad = Some(row.place),
            Err(error) if error.kind() == ErrorKind::NotFound => bad = Some(row.place),
            Err(error) => return Err(Error::read(error)),
        }
    }
    Ok(None)
}

fn row(shared: &Shared, id: BlobId) -> Result<Option<BlobRow>> {
    shared.index.read(&blob_key(id))?.map(|row| BlobRow::parse(&row)).transpose()
}

async fn read(shared: &Arc<Shared>, row: &BlobRow) -> io::Result<Option<Bytes>> {
    let row = *row;
    let file = shared.segments.file(&*shared.disk, row.place.segment)?;
    let mut body = vec![0; row.length as usize];
    if let Some(read) = file.read_now(row.offset, &mut body) {
        return read.map(|read| check(body, read, &row));
    }
    let slow = move |file: Arc<dyn DiskFile>| {
        let read = file.read_at(row.offset, &mut body)?;
        Ok(check(body, read, &row))
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) if shared.options.threads => {
            runtime.spawn_blocking(move || slow(file)).await.map_err(io::Error::other)?
        }
        _ => slow(file),
    }
}

fn check(body: Vec<u8>, read: usize, row: &BlobRow) -> Option<Bytes> {
    (read == body.len() && crc32c::crc32c(&body) == row.crc).then(|| body.into())
}

/// Drops the row of a body that cannot be read, so that it is taken when a replica brings it again.
fn lose(shared: &Arc<Shared>, id: BlobId, row: &BlobRow) {
    tracing::error!(blob = ?id, segment = row.place.segment, offset = row.offset, "a body is damaged");
    shared.counters.found_corrupt(1);
    let operations = vec![Operation::LoseBlob { id, from: row.place }];
    if shared.options.threads {
        shared.queue.try_submit(operations);
    } else if let Err(error) = threads::commit(shared, operations) {
        tracing::warn!(%error, "the damaged body stays in the index");
    }
}
