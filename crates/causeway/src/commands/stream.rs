//! Server-sent events as the CLI reads them.

use anyhow::{Result, anyhow};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Longest line that is waited for; the API's are a few kilobytes.
const LINE_BYTES_MAX: usize = 8 << 20;

/// A stream of events, read one at a time.
pub(crate) struct Events {
    body: Incoming,
    pending: Vec<u8>,
    name: String,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Events { body, pending: Vec::new(), name: String::new() }
    }

    /// The next event's name (empty when it has none) and data; `None` when the stream has ended.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<(String, String)>> {
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\r', '\n']);
                if let Some(name) = line.strip_prefix("event:") {
                    name.trim().clone_into(&mut self.name);
                } else if let Some(data) = line.strip_prefix("data:") {
                    return Ok(Some((std::mem::take(&mut self.name), data.trim().to_owned())));
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| anyhow!("the stream broke: {error}"))?;
            self.pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(anyhow!("the stream sends a line without end"));
            }
        }
    }
}
